// The view of attention. A layer's weights lie in the browser, one byte for each pair of tokens: so the overlay follows the pointer.
(() => {
  const WAYS = [
    ["looks", "What it looks at", "the row of the patch: where its token gets its values from"],
    ["seen", "Who looks at it", "the column of the patch: whose tokens get their values from it"],
    ["cls", "What [CLS] looks at", "the row of the [CLS] token, whatever is pointed at"],
  ];
  const MASKS = [["hidden", "Masked", "the model sees what the stage hides as hidden"], ["open", "Nothing hidden", "the model sees all patches"]];
  const BEST = 5;
  const BRIGHTEST = 3; // weights that are drawn in full colour: one alone, often the patch's own, would leave the others dark
  const COLOUR = "#4df0d8";

  const markup = `
    <div class="stage-bar">
      <label class="view-select">Layer <select></select></label>
      <div data-set="way">${ssast.choice("Direction", WAYS)}</div>
      <div data-set="mask">${ssast.choice("Mask", MASKS)}</div>
    </div>
    <p class="view-line" aria-live="polite"></p>
    <div class="view-chips" role="group" aria-label="The greatest weights"></div>
    <div class="attention-below">
      <div><h4>Heads <span class="attention-of"></span></h4><div class="attention-heads"></div></div>
      <figure class="attention-map"><h4>How far away they look <span>in the mean, every head of every layer</span></h4>
        <svg viewBox="0 0 320 226" role="img" aria-label="Mean distance of every head in time and frequency"></svg>
        <figcaption>Layer 1 <i></i> <span class="attention-depth"></span><span class="attention-even">+ if all were looked at alike</span></figcaption></figure>
    </div>`;

  ssast.view("attention", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), picture = () => stage.state().picture;
    let data = null, weights = null, most = null, size = 0, heads = 0; // of the layer that is here: (heads, size, size) bytes
    let averages = new Map(); // of the heads that have been asked for
    let head = null; // null: the mean of all
    let way = "looks", asked = {}, hover = -1, pinned = -1;

    const focus = () => (pinned >= 0 ? pinned : hover);
    const rollout = () => data.layer === "rollout";

    function show(answer) {
      data = answer;
      weights = ssast.bytes(data.weights);
      most = new Float32Array(ssast.bytes(data.most).buffer);
      heads = rollout() ? 1 : data.heads;
      size = most.length / heads;
      averages = new Map();
      asked = { layer: data.layer, hidden: data.hidden };
      if (head !== null && head >= heads) head = null;
      [hover, pinned] = [stage.state().hover, stage.state().pinned];
      layOut();
      redraw();
    }

    // ---- the numbers ----

    // How much token `from` attends to token `to` in a head.
    const SHARES = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255) ** 2);
    const weight = (which, from, to) => most[which * size + from] * SHARES[weights[(which * size + from) * size + to]];

    // (N,): the weights that are shown for a patch, in a head or the mean of all; where there is no patch, how much each is looked
    // at by all, in the mean.
    function values(patch, which) {
      if (patch < 0 && way !== "cls") return average(which);
      const { special } = data, chosen = which === null ? [...Array(heads).keys()] : [which], sum = new Float32Array(size - special);
      const centre = way === "cls" ? 0 : special + patch;
      for (const one of chosen)
        for (let other = 0; other < sum.length; other++)
          sum[other] += (way === "seen" ? weight(one, special + other, centre) : weight(one, centre, special + other)) / chosen.length;
      return sum;
    }

    function average(which) {
      if (!averages.has(which)) {
        const count = size - data.special, chosen = which === null ? [...Array(heads).keys()] : [which], sum = new Float32Array(count);
        for (const one of chosen)
          for (let row = one * size + data.special; row < (one + 1) * size; row++)
            for (let to = 0, at = row * size + data.special; to < count; to++, at++) sum[to] += most[row] * SHARES[weights[at]];
        averages.set(which, sum.map((value) => value / (count * chosen.length)));
      }
      return averages.get(which);
    }

    const full = (all) => Math.max(Float32Array.from(all).sort().at(-Math.min(BRIGHTEST, all.length)), 1e-9);
    function brightness(all) {
      const most = full(all);
      return all.map((value) => value / most);
    }

    // ---- the panel ----

    function layOut() {
      const { rows, columns } = picture().grid;
      find("select").innerHTML = [...Array(data.layers).keys()].map((layer) => `<option value="${layer}">${layer + 1} of ${data.layers}</option>`).join("") +
        '<option value="rollout">all (rollout)</option>';
      find("select").value = data.layer;
      find(".attention-of").textContent = rollout() ? "are averaged: what a token after all layers is made of, residual connections included" : `of layer ${data.layer + 1}`;
      find(".attention-heads").innerHTML = [null, ...(rollout() ? [] : Array(heads).keys())].map((which) =>
        `<button type="button" data-head="${which ?? ""}"><canvas width="${columns}" height="${rows}"></canvas><span>${named(which)}</span></button>`).join("");
      find(".attention-depth").textContent = data.layers;
      map();
    }

    function named(which) {
      if (which === null) return `<b>${rollout() ? "Rollout" : "Mean of all"}</b>`;
      const seconds = data.seconds[data.layer][which], bins = data.bins[data.layer][which];
      return `<b>Head ${which + 1}</b> ${seconds.toFixed(2)} s${picture().grid.rows > 1 ? `, ${bins.toFixed(0)} bins` : ""} away`;
    }

    // Every head of every layer by how far it looks; where there is one band only, by its layer instead.
    function map() {
      const left = 40, right = 310, top = 8, bottom = 190, flat = picture().grid.rows === 1;
      const farthest = 1.06 * Math.max(data.even[0], ...data.seconds.flat()), highest = flat ? data.layers : 1.06 * Math.max(data.even[1], ...data.bins.flat());
      const x = (seconds) => (left + ((right - left) * seconds) / farthest).toFixed(1), y = (up) => (bottom - ((bottom - top) * up) / highest).toFixed(1);
      const here = (layer, which) => layer === data.layer && (head === null || head === which);
      const dot = (layer, which) => {
        const [seconds, bins] = [data.seconds[layer][which], data.bins[layer][which]];
        return `<circle cx="${x(seconds)}" cy="${y(flat ? layer + 0.5 : bins)}" r="${here(layer, which) ? 6 : 4.5}" class="${here(layer, which) ? "is-here" : ""}"
          style="--depth:${layer / Math.max(data.layers - 1, 1)}" data-dot="${layer} ${which}"><title>Layer ${layer + 1}, head ${which + 1}: ${seconds.toFixed(2)} s${flat ? "" : `, ${bins.toFixed(1)} mel bins`} away</title></circle>`;
      };
      const all = data.seconds.flatMap((row, layer) => row.map((_, which) => [layer, which])).sort((one, other) => here(...one) - here(...other));
      const steps = (most) => { const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((one) => most / one <= 5); return [...Array(Math.floor(most / step) + 1).keys()].map((count) => +(count * step).toFixed(2)); };
      find("svg").innerHTML = `<path class="axis" d="M${left} ${top}V${bottom}H${right}"/>
        ${steps(farthest).map((value) => `<text x="${x(value)}" y="${bottom + 14}" text-anchor="middle">${value}</text>`).join("")}
        ${flat ? "" : steps(highest).map((value) => `<text x="${left - 5}" y="${+y(value) + 4}" text-anchor="end">${value}</text>`).join("")}
        <text x="${(left + right) / 2}" y="${bottom + 30}" text-anchor="middle">seconds</text>
        <text transform="translate(10 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">${flat ? "layer" : "mel bins"}</text>
        <path class="even" d="${flat ? `M${x(data.even[0])} ${top}V${bottom}` : `M${x(data.even[0]) - 6} ${y(data.even[1])}h12m-6 -6v12`}"/>${all.map((one) => dot(...one)).join("")}`;
    }

    // ---- what follows the pointer ----

    function redraw() {
      ssast.choose(find("[data-set=way]"), way);
      ssast.choose(find("[data-set=mask]"), asked.hidden ? "hidden" : "open");
      const patch = focus(), all = values(patch, head);
      stage.overlay(brightness(all), COLOUR);
      drawHeads(patch);
      say(patch, all);
    }

    function drawHeads(patch) {
      const { rows, columns } = picture().grid, pin = getComputedStyle(element).getPropertyValue("--stage-pin");
      for (const button of element.querySelectorAll("[data-head]")) {
        const which = button.dataset.head === "" ? null : Number(button.dataset.head), context = button.querySelector("canvas").getContext("2d");
        button.setAttribute("aria-pressed", which === head);
        const all = values(patch, which);
        context.clearRect(0, 0, columns, rows);
        context.drawImage(ssast.overlay(brightness(all), COLOUR, { rows, columns }), 0, 0);
        if (way === "cls" || patch < 0) continue;
        context.fillStyle = pin;
        context.fillRect(patch % columns, rows - 1 - Math.floor(patch / columns), 1, 1);
      }
    }

    function say(patch, all) {
      const { noun, plural } = picture().data, chips = find(".view-chips"), { percent } = ssast;
      const order = [...all.keys()].sort((one, other) => all[other] - all[one]).slice(0, BEST), sum = all.reduce((total, value) => total + value, 0);
      const who = way === "cls" || patch < 0 ? "" : `${ssast.capital(noun)} ${patch} (${ssast.place(picture(), patch)}, ${asked.hidden && picture().mask[patch] ? "hidden" : "visible"})`;
      find(".view-line").textContent = (way !== "cls" && patch < 0 ? `What all ${plural} look at, in the mean: point at one, or tap it, to see its own.` : {
        looks: `${who} gives itself ${percent(all[patch])} of its attention, [CLS] and distillation ${percent(Math.max(1 - sum, 0))}.`,
        seen: `${who} gets ${percent(sum / all.length)} of each ${noun}'s attention in the mean; it would be ${percent(1 / size)} if all were looked at alike.`,
        cls: `[CLS] looks at the ${plural} with ${percent(sum)} of its attention.`,
      }[way]) + ` Full colour: ${percent(full(all))} or more.`;
      chips.innerHTML = `<span>${way === "seen" && patch >= 0 ? "most from" : "most at"}</span>` + order.map((other) =>
        `<button type="button" data-patch="${other}" title="Plays it"><b>${other}</b> ${ssast.place(picture(), other)} <i>${percent(all[other])}</i></button>`).join("") +
        `<button type="button" data-all="${order}" title="Plays them one after another">▶ all</button>`;
    }

    // ---- what is touched ----

    function click({ target }) {
      const button = target.closest("button"), dot = target.closest("[data-dot]");
      if (dot) {
        const [layer, which] = dot.dataset.dot.split(" ").map(Number);
        head = which;
        if (layer !== data.layer) return host.ask({ ...asked, layer });
      } else if (!button) return;
      else if (button.dataset.patch) return stage.play([Number(button.dataset.patch)], "original");
      else if (button.dataset.all) return stage.play(button.dataset.all.split(",").map(Number), "original");
      else if (button.dataset.head !== undefined) head = button.dataset.head === "" ? null : Number(button.dataset.head);
      else if (button.closest("[data-set=way]")) way = button.dataset.choose;
      else return host.ask({ ...asked, hidden: button.dataset.choose === "hidden" });
      map();
      redraw();
    }

    // A patch of a small picture, or a name of one, is that of the stage.
    function over(event) {
      const chip = event.target.closest("[data-patch]");
      stage.point(chip ? Number(chip.dataset.patch) : event.target.matches("canvas") ? ssast.patchUnder(event.target, event) : -1);
    }

    element.addEventListener("click", click);
    element.addEventListener("pointermove", over);
    element.addEventListener("pointerleave", () => stage.point(-1));
    find("select").addEventListener("change", ({ target }) => host.ask({ ...asked, layer: target.value === "rollout" ? "rollout" : Number(target.value) }));

    return {
      show,
      hover: (patch) => ((hover = patch), pinned < 0 && redraw()),
      pin: (patch) => ((pinned = patch), redraw()),
    };
  });
})();
