// The view of attention. A layer's weights lie in the browser, one byte for each pair of tokens: so the overlay follows the pointer.
(() => {
  const WAYS = [
    ["looks", "What this patch looks at", "the row of the patch: where its token gets its values from"],
    ["seen", "Who looks at it", "the column of the patch: whose tokens get their values from it"],
    ["cls", "What [CLS] looks at", "the row of the [CLS] token, whatever is pointed at"],
  ];
  const MASKS = [["hidden", "Masked", "the model sees what the stage hides as hidden"], ["open", "Nothing hidden", "the model sees all patches"]];
  const BEST = 5;
  const COLOUR = "#4df0d8";

  const markup = `
    <div class="stage-bar">
      <label class="view-select">Layer <select data-set="layer"></select></label>
      <div data-set="way">${ssast.choice("Direction", WAYS)}</div>
      <div data-set="mask">${ssast.choice("Mask", MASKS)}</div>
    </div>
    <p class="view-line" aria-live="polite"></p>
    <div class="attention-best" aria-label="The patches with the greatest weight"></div>
    <div class="attention-below">
      <div><h4>Heads <span class="attention-of"></span></h4><div class="attention-heads"></div></div>
      <figure class="attention-map"><figcaption>Mean distance to what is looked at, every head of every layer</figcaption><svg viewBox="0 0 320 236" role="img" aria-label="Mean distance of every head in time and frequency"></svg></figure>
    </div>`;

  ssast.view("attention", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector);
    let data = null, weights = null, most = null, size = 0, heads = 0; // of the layer that is here: (heads, size, size) bytes
    let head = null; // null: the mean of all
    let way = "looks", asked = { layer: null, hidden: true }, hover = -1, pinned = -1;

    const picture = () => stage.state().picture;
    const focus = () => (pinned >= 0 ? pinned : hover);
    const rollout = () => data.layer === "rollout";

    function show(answer) {
      data = answer;
      size = Math.round(Math.sqrt(ssast.bytes(answer.weights).length / (rollout() ? 1 : answer.heads)));
      heads = rollout() ? 1 : answer.heads;
      weights = ssast.bytes(answer.weights);
      most = new Float32Array(ssast.bytes(answer.most).buffer);
      asked = { layer: answer.layer, hidden: answer.hidden };
      if (head !== null && head >= heads) head = null;
      [hover, pinned] = [stage.state().hover, stage.state().pinned];
      layOut();
      redraw();
    }

    // ---- the numbers ----

    // Of a head: how much token `from` attends to token `to`.
    function weight(which, from, to) {
      const share = weights[(which * size + from) * size + to] / 255;
      return most[which * size + from] * share * share;
    }

    // (N,): the weights that are shown for a patch, in a head or the mean of all.
    function values(patch, which) {
      const count = size - data.special, chosen = which === null ? [...Array(heads).keys()] : [which], sum = new Float32Array(count);
      if (patch < 0 && way !== "cls") return null;
      for (const one of chosen)
        for (let other = 0; other < count; other++)
          sum[other] += (way === "seen" ? weight(one, data.special + other, data.special + patch)
            : weight(one, way === "cls" ? 0 : data.special + patch, data.special + other)) / chosen.length;
      return sum;
    }

    const largest = (all) => all.reduce((most, value) => Math.max(most, value), 1e-12);
    const scaled = (all) => all.map((value) => Math.sqrt(value / largestOf)); // set just before
    let largestOf = 1;

    // ---- the panel ----

    function layOut() {
      const select = find("select"), layers = [...Array(data.layers).keys()];
      select.innerHTML = layers.map((layer) => `<option value="${layer}">${layer + 1} of ${data.layers}</option>`).join("") +
        '<option value="rollout">Rollout of all</option>';
      select.value = data.layer;
      const shown = [null, ...(rollout() ? [] : layers.length ? [...Array(heads).keys()] : [])];
      const { rows, columns } = picture().grid;
      find(".attention-of").textContent = rollout()
        ? "are averaged: what each token is made of after all layers, residual connections included"
        : `of layer ${data.layer + 1}`;
      find(".attention-heads").innerHTML = shown.map((which) => `<button type="button" data-head="${which ?? ""}">
        <canvas width="${columns}" height="${rows}"></canvas><span>${named(which)}</span></button>`).join("");
      map();
    }

    function named(which) {
      if (which === null) return `<b>${rollout() ? "Rollout" : "Mean of all"}</b>`;
      const seconds = data.seconds[data.layer][which], bins = data.bins[data.layer][which];
      return `<b>Head ${which + 1}</b> ${seconds.toFixed(2)} s${picture().grid.rows > 1 ? `, ${bins.toFixed(0)} bins` : ""}`;
    }

    // Every head of every layer by how far it looks; the present one is chosen, and a click chooses another.
    function map() {
      const left = 40, right = 310, top = 10, bottom = 200, flat = picture().grid.rows === 1;
      const farthest = 1.08 * Math.max(data.even[0], ...data.seconds.flat()), highest = 1.08 * Math.max(data.even[1], ...data.bins.flat(), 1);
      const x = (seconds) => left + ((right - left) * seconds) / farthest;
      const y = (bins, layer) => flat ? bottom - ((bottom - top) * (layer + 0.5)) / data.layers : bottom - ((bottom - top) * bins) / highest;
      const dots = data.seconds.flatMap((all, layer) => all.map((seconds, which) => {
        const here = layer === data.layer && (head === null || head === which), bins = data.bins[layer][which];
        const place = `cx="${x(seconds).toFixed(1)}" cy="${y(bins, layer).toFixed(1)}"`;
        return [here, `<circle ${place} r="${here ? 6 : 4.5}" class="${here ? "is-here" : ""}" style="--depth:${(layer + 1) / data.layers}" data-dot="${layer} ${which}" tabindex="-1"><title>Layer ${layer + 1}, head ${which + 1}: ${seconds.toFixed(2)} s${flat ? "" : `, ${bins.toFixed(1)} mel bins`}</title></circle>`];
      })).sort(([one], [other]) => one - other).map(([, dot]) => dot);
      const ticks = (most, place, digits) => [0, 1, 2, 3].map((part) => (part * most) / 3.24).map((value) => place(value, value.toFixed(digits))).join("");
      find("svg").innerHTML = `<line class="axis" x1="${left}" y1="${bottom}" x2="${right}" y2="${bottom}"/><line class="axis" x1="${left}" y1="${top}" x2="${left}" y2="${bottom}"/>
        ${ticks(farthest, (value, words) => `<text x="${x(value)}" y="${bottom + 14}" text-anchor="middle">${words}</text>`, 1)}
        ${flat ? "" : ticks(highest, (value, words) => `<text x="${left - 5}" y="${y(value) + 4}" text-anchor="end">${words}</text>`, 0)}
        <text x="${(left + right) / 2}" y="${bottom + 30}" text-anchor="middle">seconds away</text>
        <text transform="translate(10 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">${flat ? "layer" : "mel bins away"}</text>
        ${flat ? `<line class="even" x1="${x(data.even[0])}" x2="${x(data.even[0])}" y1="${top}" y2="${bottom}"/>`
          : `<path class="even" d="M${x(data.even[0]) - 5} ${y(data.even[1])}h10m-5 -5v10"/>`}
        <text x="${Math.min(x(data.even[0]), right - 4)}" y="${flat ? top + 4 : y(data.even[1]) - 8}" text-anchor="end" class="even-text">${flat ? "even attention " : "even attention"}</text>${dots.join("")}`;
    }

    function chosen() {
      for (const [group, value] of [["way", way], ["mask", asked.hidden ? "hidden" : "open"]])
        for (const button of find(`[data-set=${group}]`).querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.choose === value);
      for (const button of element.querySelectorAll("[data-head]"))
        button.setAttribute("aria-pressed", button.dataset.head === String(head ?? ""));
    }

    // ---- what follows the pointer ----

    function redraw() {
      chosen();
      const patch = focus(), all = values(patch, head);
      stage.overlay(all && brightness(all), COLOUR);
      drawHeads(patch);
      say(patch, all);
    }

    function brightness(all) {
      largestOf = largest(all);
      return scaled(all);
    }

    function drawHeads(patch) {
      const { rows, columns } = picture().grid, pin = getComputedStyle(element).getPropertyValue("--stage-pin");
      for (const button of element.querySelectorAll("[data-head]")) {
        const which = button.dataset.head === "" ? null : Number(button.dataset.head), canvas = button.querySelector("canvas");
        const context = canvas.getContext("2d"), all = values(patch, which);
        context.clearRect(0, 0, columns, rows);
        if (!all) continue;
        context.drawImage(ssast.overlay(brightness(all), COLOUR, { rows, columns }), 0, 0);
        if (way === "cls") continue;
        context.fillStyle = pin;
        context.fillRect(patch % columns, rows - 1 - Math.floor(patch / columns), 1, 1);
      }
    }

    const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;

    function place(patch) {
      const { low, high, first, end } = picture().bounds(patch), { timeOf, hertzOf, data: shown } = picture();
      const hertz = hertzOf((low + high) / 2);
      return `${(shown.start + timeOf((first + end) / 2)).toFixed(2)} s${picture().grid.rows > 1 ? `, ${hertz < 1000 ? hertz.toFixed(0) : `${(hertz / 1000).toFixed(1)}k`} Hz` : ""}`;
    }

    function say(patch, all) {
      const line = find(".view-line"), best = find(".attention-best"), { noun } = picture().data;
      best.replaceChildren();
      if (!all) {
        line.textContent = `Point at a ${noun} of the stage, or tap it.`;
        return;
      }
      const order = [...all.keys()].sort((one, other) => all[other] - all[one]).slice(0, BEST);
      const sum = all.reduce((total, value) => total + value, 0), who = `${noun[0].toUpperCase()}${noun.slice(1)} ${patch}`;
      const fate = asked.hidden && patch >= 0 && picture().mask[patch] ? "hidden" : "visible";
      line.textContent = {
        looks: `${who} (${place(Math.max(patch, 0))}, ${fate}) gives ${percent(all[Math.max(patch, 0)])} of its attention to itself and ${percent(Math.max(1 - sum, 0))} to [CLS] and distillation.`,
        seen: `${who} (${place(Math.max(patch, 0))}, ${fate}) gets ${percent(sum / all.length)} of a ${noun}'s attention in the mean; if all were alike it would be ${percent(1 / size)}.`,
        cls: `[CLS] gives ${percent(sum)} of its attention to the ${picture().data.plural}.`,
      }[way];
      best.innerHTML = `<span>${way === "seen" ? "Most from" : "Most to"}</span>` + order.map((other) =>
        `<button type="button" data-patch="${other}"><b>${other}</b> ${place(other)} <i>${percent(all[other])}</i></button>`).join("");
    }

    // ---- what is touched ----

    function click(event) {
      const button = event.target.closest("button"), dot = event.target.closest("[data-dot]");
      if (dot) {
        const [layer, which] = dot.dataset.dot.split(" ").map(Number);
        head = which;
        if (layer !== data.layer) return host.ask({ ...asked, layer });
        map();
      } else if (!button) return;
      else if (button.dataset.patch) return stage.play([Number(button.dataset.patch)], "original");
      else if (button.dataset.head !== undefined) {
        head = button.dataset.head === "" ? null : Number(button.dataset.head);
        map();
      } else if (button.closest("[data-set=way]")) way = button.dataset.choose;
      else return host.ask({ ...asked, hidden: button.dataset.choose === "hidden" });
      redraw();
    }

    // A patch of a small picture is that of the stage.
    function over(event) {
      const named = event.target.closest("[data-patch]"), canvas = event.target.closest("canvas");
      if (named) return stage.point(Number(named.dataset.patch));
      if (!canvas) return stage.point(-1);
      const area = canvas.getBoundingClientRect(), along = Math.floor(((event.clientX - area.left) / area.width) * canvas.width);
      const up = canvas.height - 1 - Math.floor(((event.clientY - area.top) / area.height) * canvas.height);
      stage.point(Math.min(Math.max(up, 0), canvas.height - 1) * canvas.width + Math.min(Math.max(along, 0), canvas.width - 1));
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
