// What is typed beside a slider reaches the handlers before the slider has put it within its range.
function withinRange(slider, place, inputs) {
  const range = document.querySelector(slider + " input[type=range]");
  const [low, high, step] = [range.min, range.max, range.step].map(Number);
  inputs[place] = Math.min(Math.max(low + Math.round(((inputs[place] ?? low) - low) / step) * step, low), high);
  return inputs;
}
