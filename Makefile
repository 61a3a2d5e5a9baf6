# Every target is one call of bootstrap.py, which sets the course up first (see there). `make` alone lists them.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c '' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
BOOTSTRAP = $(PYTHON) bootstrap.py

.PHONY: help lab test notebooks run fetch doctor clean bench slides book test-browser test-colab

help:
	@echo "make lab [PORT=8888]         set up and open JupyterLab on the first notebook"
	@echo "make test                    set up, then ruff, unit tests and every notebook"
	@echo "make notebooks [CHAPTER=41]  run changed notebooks again and store their outputs (ALL=1: every notebook)"
	@echo "make run [CHAPTER=41]        run the course, or a chapter, headless; nothing is written"
	@echo "make slides [CHAPTER=41]     write the lecture decks to build/slides"
	@echo "make book                    write the course as one site to build/book"
	@echo "make fetch [ALL=1]           fetch the core sources (ALL=1: the large ones too)"
	@echo "make doctor                  say what is here and what is missing"
	@echo "make clean [ALL=1]           remove .venv and leftovers (ALL=1: fetched sources and models too)"
	@echo "make bench [ONLY=steps]      measure beside peft and store it, on a quiet machine (QUICK=1: a smoke test)"
	@echo "make test-browser            check widgets, slides and book in headless Chromium"
	@echo "make test-colab              try the notebooks' first cell as Colab would run it"

lab:
	@$(BOOTSTRAP) lab $(if $(PORT),--port $(PORT))

notebooks:
	@$(BOOTSTRAP) notebooks $(if $(ALL),all) $(CHAPTER)

run:
	@$(BOOTSTRAP) run $(or $(CHAPTER),all)

slides:
	@$(BOOTSTRAP) slides $(CHAPTER)

fetch:
	@$(BOOTSTRAP) fetch $(if $(ALL),all)

bench:
	@$(BOOTSTRAP) bench $(if $(QUICK),--quick) $(ONLY)

clean:
	@$(BOOTSTRAP) clean $(if $(ALL),--all)

test doctor book test-browser test-colab:
	@$(BOOTSTRAP) $@
