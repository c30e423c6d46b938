// gr.Plot draws every new figure in a new element, which forgets the zoom. A figure of the same stretch of sound (its
// uirevision says so) is zoomed as the one before it; a double click still shows the whole stretch.
(() => {
  let plotly, before;
  const keepZoom = (library) => {
    const react = library.react;
    library.react = async (plot, data, layout, config) => {
      const zoom = {}, earlier = before?.layout;
      if (before !== plot && layout.uirevision && earlier?.uirevision === layout.uirevision)
        for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
          if (earlier[axis]?.range + "" !== layout[axis].range + "") zoom[axis + ".range"] = [...earlier[axis].range];
      before = plot;
      await react(plot, data, layout, config);
      if (Object.keys(zoom).length) await library.relayout(plot, zoom);
      return plot;
    };
    return library;
  };
  Object.defineProperty(window, "Plotly", {
    configurable: true,
    get: () => plotly,
    set: (library) => (plotly = keepZoom(library)),
  });
})();

// What is typed beside a slider reaches the handlers before the slider has put it within its range.
function withinRange(slider, place, inputs) {
  const range = document.querySelector(slider + " input[type=range]");
  const [low, high, step] = [range.min, range.max, range.step].map(Number);
  inputs[place] = Math.min(Math.max(low + Math.round(((inputs[place] ?? low) - low) / step) * step, low), high);
  return inputs;
}
