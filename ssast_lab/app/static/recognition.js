// The view of recognition: every prediction against every hidden patch. All scores lie in the browser, which makes both softmaxes.
(() => {
  const WAYS = [
    ["paper", "Prediction among patches", "the paper's softmax: which true patch is each prediction most like?"],
    ["official", "Patch among predictions", "the official code's softmax: which prediction is each true patch most like?"],
  ];
  const ORDERS = [["band", "By band", "patches row by row from the lowest band, time fastest"], ["time", "By time", "patches column by column from the first, frequency fastest"]];
  const PLACES = [[0, 0], [1, 1], [2, 4], [5, 9], [10, 19], [20, 49], [50, Infinity]];
  const BEST = 5, SUREST = 3;
  const COLOUR = "#4df0d8", OTHER = "#ff8787", SOME = "#74c0fc"; // of the overlay, of the patch on the other side, of a group

  const markup = `
    <div class="stage-bar"><div data-set="way">${ssast.choice("Softmax", WAYS)}</div><div data-set="order">${ssast.choice("Order", ORDERS)}</div></div>
    <p class="view-line" aria-live="polite"></p>
    <div class="view-chips match-places" role="group" aria-label="Places of the true patches"></div>
    <div class="match-below">
      <figure><div class="match-matrix"><canvas role="img" aria-label="Every prediction against every hidden patch"></canvas><i class="is-row"></i><i class="is-column"></i></div>
        <figcaption></figcaption></figure>
      <div><h4 class="match-title"></h4><p class="match-fate"></p><div class="match-pictures"></div></div>
    </div>`;

  ssast.view("recognition", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), picture = () => stage.state().picture;
    const matrix = find(".match-matrix canvas");
    let patches = [], scores = null, ranks = {}, logs = null, place = new Map(), order = []; // logs: (M, M) of the softmax that is chosen
    let way = "paper", sorted = "band", hover = -1, pinned = -1, over = null; // over: [row, column] of the matrix that is pointed at

    const count = () => patches.length;
    const rank = () => ranks[way];
    const focus = () => [over ? patches[over[0]] : -1, pinned, hover].find((patch) => place.has(patch)) ?? -1;

    function show(data) {
      patches = [...new Int32Array(ssast.bytes(data.patches).buffer)];
      scores = new Float32Array(ssast.bytes(data.scores).buffer);
      ranks = { paper: new Int32Array(ssast.bytes(data.rank).buffer), official: new Int32Array(ssast.bytes(data.rank_among_predictions).buffer) };
      place = new Map(patches.map((patch, at) => [patch, at]));
      [hover, pinned, over] = [stage.state().hover, stage.state().pinned, null];
      turn();
    }

    // ---- the numbers ----

    // The scores of one: of a prediction with all patches, or of a patch with all predictions.
    const score = (of, other) => (way === "paper" ? scores[of * count() + other] : scores[other * count() + of]);

    function softmax() {
      logs = new Float32Array(count() ** 2);
      for (let of = 0; of < count(); of++) {
        let most = -Infinity, sum = 0;
        for (let other = 0; other < count(); other++) most = Math.max(most, score(of, other));
        for (let other = 0; other < count(); other++) sum += Math.exp(score(of, other) - most);
        for (let other = 0; other < count(); other++) logs[of * count() + other] = score(of, other) - most - Math.log(sum);
      }
    }

    const chance = (of, other) => Math.exp(logs[of * count() + other]);

    // The others that one is most like, best first.
    function best(of, howMany = BEST) {
      const row = logs.subarray(of * count(), (of + 1) * count());
      return [...row.keys()].sort((one, other) => row[other] - row[one] || one - other).slice(0, howMany);
    }

    function likeliest(of) {
      const row = logs.subarray(of * count(), (of + 1) * count());
      return row.reduce((most, value, other) => (value > row[most] ? other : most), 0);
    }

    // ---- the panel ----

    function turn() {
      softmax();
      find(".match-pictures").innerHTML = "";
      const { columns } = picture().grid, key = (patch) => (sorted === "band" ? patch : (patch % columns) * 4096 + Math.floor(patch / columns));
      order = [...patches.keys()].sort((one, other) => key(patches[one]) - key(patches[other]));
      ssast.choose(find("[data-set=way]"), way);
      ssast.choose(find("[data-set=order]"), sorted);
      drawMatrix();
      sum();
      redraw();
    }

    function drawMatrix() {
      const all = count(), image = new ImageData(all, all), pixels = new Uint32Array(image.data.buffer);
      const palette = ssast.bytes(picture().data.colours.loudness), last = palette.length / 3 - 1, span = Math.log(all) + 1;
      for (let row = 0; row < all; row++)
        for (let column = 0; column < all; column++) {
          const value = 1 + logs[order[row] * all + order[column]] / span; // guessing is near black, certainty is the last colour
          const at = 3 * Math.round(Math.min(Math.max(value, 0), 1) * last);
          pixels[row * all + column] = (255 << 24) | (palette[at + 2] << 16) | (palette[at + 1] << 8) | palette[at];
        }
      Object.assign(matrix, { width: all, height: all });
      matrix.getContext("2d").putImageData(image, 0, 0);
      matrix.style.imageRendering = all < 240 ? "pixelated" : "auto";
    }

    function sum() {
      const all = count(), ordered = [...rank()].sort((one, other) => one - other), right = ordered.filter((value) => !value).length;
      const first = ordered.filter((value) => value < BEST).length;
      find(".view-line").textContent = `${right} of ${all} recognised (${ssast.percent(right / all)}; guessing: ${ssast.percent(1 / all)}). ` +
        `The true one is among the first five for ${ssast.percent(first / all)}, and in the middle at place ${ordered[Math.floor((all - 1) / 2)] + 1}.`;
      find(".match-places").innerHTML = PLACES.map(([low, high], group) => {
        const here = ordered.filter((value) => value >= low && value <= high).length;
        const name = low === 0 ? "recognised" : high === Infinity ? `later than ${low}` : low === high ? `place ${low + 1}` : `${low + 1} to ${high + 1}`;
        return low >= all ? "" : `<button type="button" data-group="${group}" style="--share:${((100 * here) / all).toFixed(1)}%" title="Frames them on the stage">${name} <b>${here}</b></button>`;
      }).join("");
    }

    // ---- what follows the pointer ----

    function redraw() {
      const patch = focus();
      stage.overlay(patch < 0 ? bySuccess() : byLikeness(place.get(patch)), COLOUR);
      stage.mark(over ? [patches[over[1]]] : [], OTHER);
      drawLines(patch);
      tell(patch);
    }

    const spread = (value) => {
      const all = new Float32Array(picture().mask.length).fill(NaN);
      patches.forEach((patch, at) => (all[patch] = value(at)));
      return all;
    };
    const bySuccess = () => spread((at) => 1 - Math.log1p(rank()[at]) / Math.log(count() + 1e-6));

    function byLikeness(of) {
      const most = likeliest(of);
      return spread((other) => Math.sqrt(chance(of, other) / chance(of, most)));
    }

    function drawLines(patch) {
      const row = over ? order.indexOf(over[0]) : patch >= 0 ? order.indexOf(place.get(patch)) : -1, column = over ? order.indexOf(over[1]) : row;
      const at = (value) => `${((100 * (value + 0.5)) / count()).toFixed(2)}%`;
      for (const [name, value, side] of [["row", row, "top"], ["column", column, "left"]]) {
        find(`.is-${name}`).hidden = value < 0;
        find(`.is-${name}`).style[side] = at(value);
      }
      find("figcaption").textContent = over
        ? `Prediction for ${patches[way === "paper" ? over[0] : over[1]]} and true patch ${patches[way === "paper" ? over[1] : over[0]]}: ${ssast.percent(chance(...over))}`
        : way === "paper" ? "Down: predictions. Right: true patches. The diagonal is right." : "Down: true patches. Right: predictions. The diagonal is right.";
    }

    function tell(patch) {
      const { noun, plural } = picture().data, pictures = find(".match-pictures");
      if (patch < 0) {
        find(".match-title").textContent = pinned >= 0 || hover >= 0 ? `This ${noun} is visible` : "";
        find(".match-fate").textContent = `Point at a hidden ${noun} of the stage or at a row of the matrix; a click holds it and plays both ${plural}.`;
        if (!pictures.querySelector(".match-surest")) pictures.innerHTML = surest();
        drawPatches();
        return;
      }
      const at = place.get(patch), its = rank()[at], five = best(at);
      find(".match-title").innerHTML = `${ssast.capital(noun)} ${patch} <span>${ssast.place(picture(), patch)}</span>`;
      find(".match-fate").innerHTML = (its === 0 ? '<b class="is-right">recognised</b>' : `<b class="is-wrong">place ${its + 1} of ${count()}</b>`) +
        `, with ${ssast.percent(chance(at, at))} of the probability. ${way === "paper" ? "Its prediction is most like" : "Most like it are the predictions for"}:`;
      const layer = way === "paper" ? "original" : "reconstructed";
      pictures.innerHTML = `<div>${one("<b>hidden</b>&nbsp;", patch, "original")}${one("<b>drawn</b>&nbsp;", patch, "reconstructed")}</div><div>` +
        five.map((other) => one(`<b>${patches[other]}</b> ${ssast.percent(chance(at, other))}`, patches[other], layer, other === at ? "is-right" : "is-wrong")).join("") + "</div>";
      drawPatches();
    }

    const one = (words, which, layer, more = "") => `<button type="button" data-patch="${which}" data-layer-of="${layer}" class="${more}" title="Plays it"><canvas></canvas><span>${words}</span></button>`;

    function drawPatches() {
      for (const button of find(".match-pictures").querySelectorAll("button"))
        for (const canvas of button.querySelectorAll("canvas"))
          ssast.drawPatch(canvas, picture(), Number(canvas.dataset.of ?? button.dataset.patch), canvas.dataset.layerOf ?? button.dataset.layerOf);
    }

    // Those that were recognised, and those that were taken for another, with the greatest probability: what was hidden, and what it was taken for.
    function surest() {
      const tops = patches.map((_, of) => [of, likeliest(of)]).sort((one, other) => chance(...other) - chance(...one));
      const layer = way === "paper" ? "original" : "reconstructed";
      const pair = ([of, other]) => `<button type="button" data-hold="${of}" title="Holds it and plays both"><canvas data-of="${patches[of]}" data-layer-of="original"></canvas><canvas data-of="${patches[other]}" data-layer-of="${layer}"></canvas>
        <span><b>${patches[of]} as ${patches[other]}</b> ${ssast.percent(chance(of, other))}</span></button>`;
      const group = (words, kind, chosen) => chosen.length ? `<div class="match-surest"><h4 class="${kind}">${words}</h4>${chosen.slice(0, SUREST).map(pair).join("")}</div>` : "";
      return group("Surest and right", "is-right", tops.filter(([of]) => rank()[of] === 0)) + group("Surest and wrong", "is-wrong", tops.filter(([of]) => rank()[of] > 0));
    }

    // ---- what is touched ----

    function click({ target }) {
      const button = target.closest("button");
      if (target === matrix && over) return playRow(over[0]);
      if (!button) return;
      const { patch, layerOf, group, hold } = button.dataset;
      if (hold) return playRow(Number(hold));
      if (patch) return stage.play([Number(patch)], layerOf);
      if (group) return frame(Number(group));
      if (button.closest("[data-set=way]")) way = button.dataset.choose;
      else sorted = button.dataset.choose;
      turn();
    }

    // The patch of a row and the one that it is taken for: both light up and are heard.
    function playRow(of) {
      const other = likeliest(of);
      stage.pin(patches[of]);
      over = null;
      redraw();
      stage.mark([patches[other]], OTHER);
      stage.play(other === of ? [patches[of]] : [patches[of], patches[other]], "original");
    }

    function frame(group) {
      const [low, high] = PLACES[group];
      stage.mark(patches.filter((_, at) => rank()[at] >= low && rank()[at] <= high), SOME);
    }

    function move(event) {
      const { target } = event, chip = target.closest("[data-patch], [data-of]"), group = target.closest("[data-group]");
      stage.mark([], SOME);
      if (group) frame(Number(group.dataset.group));
      stage.point(chip ? Number(chip.dataset.patch ?? chip.dataset.of) : -1);
      const before = over;
      if (target === matrix) {
        const at = ssast.patchUnder(matrix, event), row = count() - 1 - Math.floor(at / count());
        over = [order[row], order[at % count()]];
      } else over = null;
      if (before || over) redraw();
    }

    function leave() {
      over = null;
      stage.point(-1);
      stage.mark([], SOME);
      redraw();
    }

    element.addEventListener("click", click);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerleave", leave);

    return {
      show,
      hover: (patch) => ((hover = patch), redraw()),
      pin: (patch) => ((pinned = patch), redraw()),
    };
  });
})();
