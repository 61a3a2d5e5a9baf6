/* Starts the deck: formulas first, then a running title where a slide has no heading, then every slide made to fit. */
(function () {
  const WIDTH = 1280, HEIGHT = 720, SMALLEST = 0.7;
  const slides = () => [...document.querySelectorAll('.reveal .slides section')].filter(one => !one.querySelector('section'));

  function titles() {
    let title = '';
    for (const slide of slides()) {
      const heading = slide.querySelector('h1, h2, h3');
      if (heading && !heading.closest('aside')) {
        title = [...slide.querySelectorAll(':not(aside) h1, h2, h3')].filter(one => !one.closest('aside')).pop().textContent.replace('¶', '');
      } else if (title) {
        const line = document.createElement('p');
        line.className = 'running';
        line.textContent = title;
        slide.prepend(line);
      }
    }
  }

  /* Wrap what a slide shows into one box, and draw the box smaller where it is taller than the slide. */
  function fit() {
    for (const slide of slides()) {
      const shown = [slide.parentElement, slide].filter(one => one.tagName === 'SECTION');
      const box = document.createElement('div');
      box.className = 'fit';
      box.append(...[...slide.childNodes]);
      slide.append(box);
      shown.forEach(one => { one.style.setProperty('display', 'block', 'important'); });
      const room = HEIGHT - 46;
      let scale = 1;
      while (scale > SMALLEST && box.getBoundingClientRect().height > room) {
        scale = Math.max(SMALLEST, scale - 0.05);
        box.style.zoom = scale;
      }
      shown.forEach(one => one.style.removeProperty('display'));
    }
  }

  function start() {
    titles();
    fit();
    Reveal.initialize({
      width: WIDTH, height: HEIGHT, margin: 0, center: false, controls: true, progress: true, hash: true,
      slideNumber: 'c/t', transition: 'none', backgroundTransition: 'none', pdfSeparateFragments: false,
      plugins: [RevealNotes],
      keyboard: {67: function () {
        const parts = [...document.querySelectorAll('details.code')];
        const open = !parts.some(one => one.open);
        parts.forEach(one => { one.open = open; });
      }},
    }).then(() => { document.documentElement.dataset.ready = 'yes'; });
  }

  MathJax.startup.promise.then(() => MathJax.typesetPromise()).then(start, start);
})();
