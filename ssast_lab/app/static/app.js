// What is typed beside a slider reaches the handlers before the slider has put it within its range.
function withinRange(slider, place, inputs) {
  const range = document.querySelector(slider + " input[type=range]");
  const [low, high, step] = [range.min, range.max, range.step].map(Number);
  inputs[place] = Math.min(Math.max(low + Math.round(((inputs[place] ?? low) - low) / step) * step, low), high);
  return inputs;
}

// The stage stays in sight, from its picture down, while its views are scrolled under it, where it leaves them room. On a phone only
// the picture and what plays it stay: what lies below them is scrolled over, as if it were not part of the stage.
function keepInSight(element) {
  const block = element.closest("#stage"), picture = element.querySelector(".stage-view");
  const transport = element.querySelector(".stage-transport"), narrow = matchMedia("(max-width: 740px)");
  let above = 0, below = 0; // pixels of the block that do not stay

  function place() {
    const { top, bottom } = block.getBoundingClientRect();
    above = picture.getBoundingClientRect().top - top - 6;
    below = narrow.matches ? Math.max(bottom - transport.getBoundingClientRect().bottom - 8, 0) : 0;
    block.style.setProperty("--above", `${-above}px`);
    block.classList.toggle("stays", bottom - top - above - below < 0.68 * window.innerHeight);
    slide();
  }

  function slide() {
    const passed = -above - block.previousElementSibling.getBoundingClientRect().bottom; // its place in the page is so far above
    block.style.setProperty("--below", `${Math.min(Math.max(passed, 0), below)}px`);
    block.classList.toggle("is-cut", below > 0 && passed > 0);
  }

  new ResizeObserver(place).observe(element);
  window.addEventListener("scroll", slide, { passive: true });
  window.addEventListener("resize", place);
}
