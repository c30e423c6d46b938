// What is shown, taken home: `ssast.saving(root, stage)` fills the menu in `.stage-save` of a stage. Every file is made here, in the
// browser, from what it shows and plays.
(() => {
  const KINDS = {
    png: ["Picture (PNG)", "the stage as it is seen"],
    svg: ["Picture (SVG)", "the chosen layer with its axes, as lines and letters that can be edited"],
    wav: ["Sound (WAV)", "the version that is chosen, at the gain at which it plays"],
    csv: ["Patches (CSV)", "every patch: its place, whether it is hidden, its rank and MSE"],
    json: ["Figures (JSON)", "the figures of this picture, and all patches"],
    html: ["This view (HTML)", "one file with pictures and sounds inside, that works without this page"],
  };

  const CODE = `<button type="button" data-code title="The lines of Python that make the same">Show me the code</button>`;

  // With the sound's name before it, where the page shows one.
  function called(name) {
    const title = document.querySelector("#caption .sound b")?.innerText ?? "", stem = title.replace(/\.\w{2,4}$/, "").replace(/[/\\:*?"<>|\p{Cc}]+/gu, "-").trim();
    return stem ? `${stem.slice(0, 80)} ${name}` : name;
  }

  function download(content, type, name) {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([content], { type })), download: called(name) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  // (S,) samples from -1 to 1 -> a 16-bit WAV file.
  function wav(samples, rate) {
    const view = new DataView(new ArrayBuffer(44 + 2 * samples.length)), words = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
    words(0, "RIFF");
    view.setUint32(4, 36 + 2 * samples.length, true);
    words(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]]) view.setUint16(at, value, true);
    view.setUint32(24, rate, true);
    view.setUint32(28, 2 * rate, true);
    words(36, "data");
    view.setUint32(40, 2 * samples.length, true);
    samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.round(32767 * Math.min(Math.max(value, -1), 1)), true));
    return view.buffer;
  }

  function patches(picture) {
    const { data } = picture;
    return [...picture.mask].map((hidden, patch) => {
      const { low, high, first, end } = picture.bounds(patch), at = (frame) => +(data.start + frame * data.hop).toFixed(3);
      return {
        patch, from_seconds: at(first), until_seconds: at(end), low_hertz: Math.round(Math.max(picture.hertzOf(low - 0.5), 0)), high_hertz: Math.round(picture.hertzOf(high - 0.5)),
        hidden: Boolean(hidden), rank: hidden && picture.rank[patch] >= 0 ? picture.rank[patch] : null, mse: hidden && Number.isFinite(picture.mse[patch]) ? +picture.mse[patch].toPrecision(6) : null,
      };
    });
  }

  function table(picture) {
    const rows = patches(picture), names = Object.keys(rows[0]);
    return [names, ...rows.map((row) => names.map((name) => row[name] ?? ""))].map((row) => row.join(",")).join("\n") + "\n";
  }

  function figures(picture) {
    const rows = patches(picture), hidden = rows.filter((row) => row.hidden), mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
    return {
      patches: rows.length, hidden: hidden.length, shape: picture.grid.shape, start_seconds: picture.data.start, mse: mean(hidden.map(({ mse }) => mse)),
      accuracy: mean(hidden.map(({ rank }) => Number(rank === 0))), chance: hidden.length ? 1 / hidden.length : null, of: rows,
    };
  }

  // The chosen layer, or the reconstruction where all are shown.
  function drawing(stage) {
    const { picture, layer, from, to } = stage.state(), name = layer === "all" ? "reconstructed" : layer, { bins } = picture.grid;
    const [left, top, width, height] = [56, 14, 900, 360], x = (frame) => left + ((frame - from) / (to - from)) * width, y = (bin) => top + height * (1 - bin / bins);
    const lines = [], text = (at, up, words, anchor) => lines.push(`<text x="${at.toFixed(1)}" y="${up.toFixed(1)}" text-anchor="${anchor}">${words}</text>`);
    for (const hertz of ssast.hertzes(picture)) text(left - 8, y(Math.min(picture.binOf(hertz), bins)) + 4, ssast.hertzWords(hertz), "end");
    const span = (to - from) * picture.data.hop, every = [0.1, 0.25, 0.5, 1, 2, 5].find((step) => span / step <= 12) ?? 10, start = picture.data.start + picture.data.offset + from * picture.data.hop;
    for (let second = Math.ceil(start / every) * every; second <= start + span; second += every) text(x(picture.frameOf(second - picture.data.start)), top + height + 18, +second.toFixed(2), "middle");
    text(left - 8, top + height + 18, "Hz", "end");
    text(left + width, top + height + 34, "seconds", "end");
    const { columns } = picture.grid, edges = [];
    picture.mask.forEach((hidden, patch) => {
      const { low, high, first, end } = picture.bounds(patch), same = (other, inside) => inside && picture.mask[other] === hidden;
      if (end <= from || first >= to) return;
      if (!same(patch + 1, patch % columns < columns - 1) && patch % columns < columns - 1) edges.push(`M${x(end).toFixed(1)} ${y(low).toFixed(1)}V${y(high).toFixed(1)}`);
      if (!same(patch + columns, patch + columns < picture.mask.length) && patch + columns < picture.mask.length) edges.push(`M${x(first).toFixed(1)} ${y(high).toFixed(1)}H${x(end).toFixed(1)}`);
    });
    const cut = Object.assign(document.createElement("canvas"), { width: Math.max(Math.round(to - from), 1), height: bins });
    cut.getContext("2d").drawImage(picture.layer(name), -Math.round(from), 0);
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left + width + 20} ${top + height + 44}" font-family="system-ui, sans-serif" font-size="12" fill="#444">` +
      `<image x="${left}" y="${top}" width="${width}" height="${height}" preserveAspectRatio="none" style="image-rendering: pixelated" href="${cut.toDataURL()}"/>` +
      `<clipPath id="inside"><rect x="${left}" y="${top}" width="${width}" height="${height}"/></clipPath><path d="${edges.join("")}" stroke="#fff" stroke-opacity="0.7" fill="none" clip-path="url(#inside)"/>${lines.join("")}</svg>\n`;
  }

  // An element as it looks now, with nothing in it that could be pressed in vain.
  function still(element) {
    const copy = element.cloneNode(true), canvases = element.querySelectorAll("canvas");
    copy.querySelectorAll("canvas").forEach((canvas, at) => {
      const image = Object.assign(document.createElement("img"), { src: canvases[at].toDataURL(), alt: canvas.getAttribute("aria-label") ?? "" });
      image.style.cssText = `${canvas.style.cssText}; width: ${canvases[at].clientWidth}px; height: ${canvases[at].clientHeight}px; image-rendering: pixelated`;
      canvas.replaceWith(image);
    });
    for (const gone of copy.querySelectorAll("input, select, textarea, audio, .is-lent, .stage-choice")) gone.remove();
    for (const button of copy.querySelectorAll("button")) {
      const plain = document.createElement("div");
      plain.className = `${button.className} was-button`;
      plain.append(...button.childNodes);
      button.replaceWith(plain);
    }
    for (const link of copy.querySelectorAll("a")) link.replaceWith(...link.childNodes);
    return copy.innerHTML;
  }

  const escaped = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  const json = (value) => JSON.stringify(value).replaceAll("<", "\\u003c"); // so that nothing in it can end the script

  function file(stage) {
    const { picture, layer, version } = stage.state(), title = document.querySelector("#caption .sound")?.innerText ?? "A sound";
    const open = [...document.querySelectorAll(".view")].find((view) => view.getClientRects().length), figures = document.querySelector("#figures .figures");
    const name = document.querySelector("#views [role=tab][aria-selected=true]")?.textContent.trim() ?? "";
    const data = { ...picture.data, mask: ssast.packed(picture.mask), key: "saved", stroke: null };
    const sounds = { ...stage.sounds(), key: "saved" };
    return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)} – SSAST Lab</title>
<style>body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 20px auto; padding: 0 16px; color: #1b1e23; background: #fff } h2 { font-size: 1.1rem; margin: 28px 0 4px } dl.figures { display: flex; flex-wrap: wrap; gap: 8px 32px } dl.figures dd { margin: 0 } dl.figures dd:first-of-type { font-weight: 600; font-size: 1.15rem } .was-button { display: inline-block; cursor: default }</style>
<style>${document.getElementById("ssast-style").textContent}</style>
<h1 style="font-size: 1.25rem; white-space: pre-line">${escaped(title)}</h1><div id="stage"></div>${figures ? `<dl class="figures">${figures.innerHTML}</dl>` : ""}
${open ? `<h2>${escaped(name)}</h2><div class="stage view">${still(open)}</div>` : ""}
<script>${document.getElementById("ssast-script").textContent.replaceAll("<\/script", "<\\/script")}<\/script>
<script>
const element = document.getElementById("stage"), stage = (element.stage = ssast.mount(element, { still: true, paint() {}, hear() {} }));
stage.show(${json(data)});
${stage.state().ready ? `stage.hear(${json(sounds)});\nstage.choose(${json(version)});` : ""}
stage.see(${json(layer)});
<\/script></html>\n`;
  }

  const MAKE = {
    png: (stage, canvas) => canvas.toBlob((blob) => download(blob, "image/png", "spectrogram.png")),
    svg: (stage) => download(drawing(stage), "image/svg+xml", `${stage.state().layer}.svg`),
    wav: (stage) => {
      const { samples, rate, name } = stage.sound();
      download(wav(samples, rate), "audio/wav", `${name}.wav`);
    },
    csv: (stage) => download(table(stage.state().picture), "text/csv", "patches.csv"),
    json: (stage) => download(JSON.stringify(figures(stage.state().picture), null, 1) + "\n", "application/json", "figures.json"),
    html: (stage) => download(file(stage), "text/html", "view.html"),
  };

  function saving(root, stage, canvas, code) {
    const menu = root.querySelector(".stage-save");
    menu.innerHTML = `<summary title="Take the picture, the sound, the figures or this view home">Save</summary><div>${Object.entries(KINDS).map(([kind, [title, words]]) =>
      `<button type="button" data-save="${kind}" title="${words}">${title}</button>`).join("")}${code ? CODE : ""}</div>`;
    menu.addEventListener("click", (event) => {
      if (event.target.closest("[data-code]") && stage.state().picture) {
        menu.open = false;
        code(ssast.openTab?.());
      }
      const kind = event.target.closest("[data-save]")?.dataset.save;
      if (!kind || !stage.state().picture) return;
      menu.open = false;
      MAKE[kind](stage, canvas);
    });
    menu.addEventListener("toggle", () => (menu.querySelector("[data-save=wav]").disabled = !stage.state().ready));
    menu.addEventListener("focusout", (event) => menu.contains(event.relatedTarget) || (menu.open = false));
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { saving });
})();
