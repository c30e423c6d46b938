// The view of patches and masks: how often each patch is hidden by each kind of mask, and examples to put on the stage.
(() => {
  const GRIDS = [["patch", "Patches", "16 mel bins x 16 frames"], ["frame", "Frames", "all mel bins x 2 frames"]];
  const TITLES = { random: ["Random", "each by itself"], "official code": ["Official code", "with its biases"] };
  const SATURATED = 0.25; // deviation in share that has the last colour
  const BARS = 40, LOW = 24, GAP = 5; // pixels: the bars at the right, and those below

  const markup = `
    <div class="stage-bar"><div data-set="grid">${ssast.choice("Grid", GRIDS)}</div>
      <span class="masks-legend"><span>less often</span><i></i><span>more often than if all were hidden alike; bars: each band and each column</span></span></div>
    <p class="view-line" aria-live="polite"></p>
    <div class="masks-kinds"></div>`;

  ssast.view("masks", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), picture = () => stage.state().picture;
    let data = null, palette = null, kinds = [], hover = -1, pinned = -1, laid = null; // laid: the kind whose map lies over the stage

    const share = () => data.count / (data.grid.rows * data.grid.columns);
    const noun = () => (data.grid.rows > 1 ? "patch" : "frame");

    function show(answer) {
      data = answer;
      palette = ssast.bytes(picture().data.colours.deviation);
      kinds = data.kinds.map((kind) => ({ ...kind, rate: new Float32Array(ssast.bytes(kind.rate).buffer), examples: ssast.bytes(kind.examples) }));
      [hover, pinned] = [stage.state().hover, stage.state().pinned];
      if (!kinds.some((kind) => kind.cluster === laid)) laid = null;
      ssast.choose(find("[data-set=grid]"), noun());
      find(".masks-legend i").style.background = `linear-gradient(90deg, ${[-1, -0.5, 0, 0.5, 1].map((at) => colour(at * SATURATED)).join(", ")})`;
      layOut();
      redraw();
    }

    // ---- the panel ----

    function layOut() {
      const named = ({ cluster }) => TITLES[cluster] ?? [`Clusters, C ${cluster.replace(" (paper)", "")}`, cluster.includes("paper") ? "the paper's" : "your choice"];
      const { rows, columns } = data.grid, one = rows === 1;
      find(".masks-kinds").classList.toggle("is-alone", one);
      find(".masks-kinds").innerHTML = kinds.map((kind, at) => {
        const [title, words] = named(kind), least = Math.min(...kind.rate), most = Math.max(...kind.rate);
        return `<section><h4>${title} <span>${words}${kind.chosen && data.own ? ", in use" : ""}</span></h4>
          <canvas class="masks-map" data-map="${at}" role="img" aria-label="How often each ${noun()} is hidden"></canvas>
          <p>Hidden in ${ssast.percent(least)} to ${ssast.percent(most)}; hidden regions of ${kind.region.toFixed(0)} in the mean.</p>
          <div class="masks-examples">${[...Array(kind.examples.length / kind.rate.length).keys()].map((example) =>
            `<button type="button" data-example="${at} ${example}" aria-label="Mask ${example + 1}: ${title}" ${data.own ? 'title="Puts this mask on the stage"' : "disabled"}><canvas width="${columns}" height="${rows}"></canvas></button>`).join("")}
            ${data.own ? `<button type="button" class="masks-lay" data-lay="${at}" aria-pressed="false" title="Lays this map over the stage: bright is hidden often">Over the stage</button>` : ""}</div></section>`;
      }).join("");
      for (const button of element.querySelectorAll("[data-example]")) drawExample(button.firstElementChild, ...button.dataset.example.split(" ").map(Number));
    }

    const example = (at, number) => kinds[at].examples.subarray(number * kinds[at].rate.length, (number + 1) * kinds[at].rate.length);

    function drawExample(canvas, at, number) {
      const { rows, columns } = data.grid, mask = example(at, number), context = canvas.getContext("2d");
      context.fillStyle = getComputedStyle(element).getPropertyValue("--stage-on");
      for (let patch = 0; patch < mask.length; patch++) if (mask[patch]) context.fillRect(patch % columns, rows - 1 - Math.floor(patch / columns), 1, 1);
    }

    function colour(deviation) {
      const last = palette.length / 3 - 1;
      const at = 3 * Math.round((Math.min(Math.max(deviation / SATURATED, -1), 1) * 0.5 + 0.5) * last);
      return `rgb(${palette[at]}, ${palette[at + 1]}, ${palette[at + 2]})`;
    }

    // The map, at its right how often each row is hidden, and below how often each column is, as bars from the share that all would have.
    function drawMap(canvas) {
      const kind = kinds[canvas.dataset.map], { rows, columns } = data.grid, ratio = devicePixelRatio || 1;
      const width = canvas.clientWidth, cell = rows > 1 ? 12 : 26, mapWidth = width - (rows > 1 ? BARS + GAP : 0), mapHeight = rows * cell;
      Object.assign(canvas, { width: width * ratio, height: (mapHeight + GAP + LOW) * ratio });
      canvas.style.height = `${mapHeight + GAP + LOW}px`;
      const context = canvas.getContext("2d"), style = getComputedStyle(element), step = mapWidth / columns;
      context.scale(ratio, ratio);
      kind.rate.forEach((rate, patch) => {
        context.fillStyle = colour(rate - share());
        context.fillRect((patch % columns) * step, (rows - 1 - Math.floor(patch / columns)) * cell, step + 0.5, cell);
      });
      const farthest = Math.max(0.06, ...kinds.flatMap((one) => [...(rows > 1 ? one.rows : []), ...one.columns].map((rate) => Math.abs(rate - share()))));
      const [middle, floor] = [mapWidth + GAP + BARS / 2, mapHeight + GAP + LOW / 2], long = (rate, most) => ((rate - share()) / farthest) * (most / 2);
      if (rows > 1)
        kind.rows.forEach((rate, row) => {
          context.fillStyle = colour(rate - share() + Math.sign(rate - share()) * 0.06);
          context.fillRect(Math.min(middle, middle + long(rate, BARS)), (rows - 1 - row) * cell + 1, Math.abs(long(rate, BARS)), cell - 2);
        });
      kind.columns.forEach((rate, column) => {
        context.fillStyle = colour(rate - share() + Math.sign(rate - share()) * 0.06);
        context.fillRect(column * step, Math.min(floor, floor - long(rate, LOW)), Math.max(step - 0.6, 0.6), Math.abs(long(rate, LOW)));
      });
      context.strokeStyle = style.getPropertyValue("--stage-quiet");
      context.lineWidth = 1;
      context.beginPath();
      if (rows > 1) { context.moveTo(middle, 0); context.lineTo(middle, mapHeight); }
      context.moveTo(0, floor);
      context.lineTo(mapWidth, floor);
      context.stroke();
      for (const [patch, ink] of [[pinned, style.getPropertyValue("--stage-pin")], [hover, "#ffffff"]]) {
        if (patch < 0 || !data.own) continue;
        context.strokeStyle = ink;
        context.lineWidth = 1.5;
        context.strokeRect((patch % columns) * step, (rows - 1 - Math.floor(patch / columns)) * cell, Math.max(step, 2), cell);
      }
      Object.assign(canvas.dataset, { across: mapWidth, down: mapHeight });
    }

    // ---- what follows the pointer ----

    function redraw() {
      for (const canvas of element.querySelectorAll("[data-map]")) drawMap(canvas);
      for (const button of element.querySelectorAll("[data-lay]")) button.setAttribute("aria-pressed", kinds[button.dataset.lay].cluster === laid);
      const over = laid !== null && data.own && kinds.find((kind) => kind.cluster === laid);
      stage.overlay(over ? over.rate.map((rate) => 0.5 + (rate - share()) / (2 * SATURATED)) : null);
      say(hover >= 0 ? hover : pinned);
    }

    function say(patch) {
      const all = data.grid.rows * data.grid.columns, plural = noun() === "patch" ? "patches" : "frames";
      const name = ({ cluster }) => (TITLES[cluster] ? { random: "random", "official code": "the official code" }[cluster] : "clusters");
      find(".view-line").textContent = patch >= 0 && data.own
        ? `${ssast.capital(noun())} ${patch} (${ssast.place(picture(), patch)}) is hidden in ${kinds.map((kind) => `${ssast.percent(kind.rate[patch])} of the masks (${name(kind)})`).join(", ")}; alike would be ${ssast.percent(share())}.`
        : `${data.draws.toLocaleString("en")} masks of ${data.count} of ${all} ${plural}: each would be hidden in ${ssast.percent(share())} if all were hidden alike. ` +
          `On the stage now: ${data.now.length} ${data.now.length === 1 ? "region" : "regions"}${data.now.length ? `, the largest of ${Math.max(...data.now)}` : ""}.`;
    }

    // ---- what is touched ----

    function click({ target }) {
      const button = target.closest("button"), at = patchUnder(target);
      if (at >= 0 && data.own) return stage.pin(at);
      if (!button) return;
      const { example: chosen, lay, choose } = button.dataset;
      if (choose) return host.ask({ grid: choose });
      if (chosen) return stage.paint(example(...chosen.split(" ").map(Number)));
      laid = kinds[lay].cluster === laid ? null : kinds[lay].cluster;
      redraw();
    }

    let last = null; // where the pointer is
    function patchUnder(target) {
      if (!target.matches("[data-map]") || !last) return -1;
      const area = target.getBoundingClientRect(), { rows, columns } = data.grid, { across, down } = target.dataset;
      const [x, y] = [last.clientX - area.left, last.clientY - area.top];
      return x < 0 || y < 0 || x >= across || y >= down ? -1 : (rows - 1 - Math.floor((y / down) * rows)) * columns + Math.floor((x / across) * columns);
    }

    function move(event) {
      last = event;
      const patch = data?.own ? patchUnder(event.target) : -1;
      stage.point(patch);
      if (patch === hover) return;
      hover = patch;
      redraw();
    }

    element.addEventListener("click", click);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerleave", () => move({ target: element, clientX: -1, clientY: -1 }));
    new ResizeObserver(() => data && redraw()).observe(element);

    return {
      show,
      hover: (patch) => ((hover = patch), redraw()),
      pin: (patch) => ((pinned = patch), redraw()),
    };
  });
})();
