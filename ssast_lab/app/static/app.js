// What is typed beside a slider reaches the handlers before the slider has put it within its range.
function withinRange(slider, place, inputs) {
  const range = document.querySelector(slider + " input[type=range]");
  const [low, high, step] = [range.min, range.max, range.step].map(Number);
  inputs[place] = Math.min(Math.max(low + Math.round(((inputs[place] ?? low) - low) / step) * step, low), high);
  return inputs;
}

// The stage stays in sight, from its picture down, while its views are scrolled under it, where it leaves them room.
function keepInSight(element) {
  const block = element.closest("#stage"), picture = element.querySelector(".stage-view");
  function place() {
    const above = picture.offsetTop - 6, seen = block.offsetHeight - above;
    block.style.setProperty("--above", `${-above}px`);
    block.classList.toggle("stays", seen < 0.68 * window.innerHeight);
  }
  new ResizeObserver(place).observe(element);
  window.addEventListener("resize", place);
}
