"""What is made from the notebooks for other readers: lecture decks (`make slides`) and the book (`make book`)."""
