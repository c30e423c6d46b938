// The stage: a spectrogram that is read, heard and painted. `ssast.mount(element, callbacks)` builds one in any page.
//
// callbacks.paint(hidden, stroke): the patches that are hidden now; the answer is a picture with the same stroke.
// callbacks.hear(): the sounds of the picture that is shown are wanted.
// callbacks.code(tab): the lines of Python that make what is shown are wanted; left out where there are none.
// callbacks.still: whether there is nobody to ask, as in a file: then nothing can be painted or saved.
// It gives back { show(picture), hear(sounds), state() }: data as ssast_lab/stage/data.py makes them; and what others may ask of it:
//
//   mark(patches, colour)     frames patches in a colour, until others are marked in it
//   overlay(values, colour)   one value for each patch, 0 (dark) to 1 (bright), over every layer; NaN leaves a patch as it is, and
//                             null takes all away
//   clear()                   takes marks, overlay and what was lent away
//   point(patch)              shows a patch as if it were pointed at, -1 none
//   pin(patch)                pins a patch, -1 none
//   listen(from, until, version)  plays seconds of the excerpt, in the version named or the chosen one
//   play(patches, version)    plays patches one after another, in the version named or the chosen one
//   lend(guests)              more layers and sounds: { name, words: [title, explanation], levels, sound: { samples, scale } or null } each,
//                             levels as those of the picture and 16-bit samples of which scale makes the sound; clear() takes them away
//   choose(version)           what is heard, and seen where it is a layer, at the same place
//   see(layer)                what is seen, "all" for every layer
//   sound()                   the version that is chosen: { name, rate, samples }
//   sounds()                  the sounds as they came
//   playWhole(version)        chooses a version and plays it from the beginning
//   paint(mask)               hides the patches where a mask of 0 and 1 says so, as the brush does
//
// It tells, as events of its element that bubble up to the document, with the stage itself as detail.stage:
//
//   ssast:shown { picture }   another picture is shown
//   ssast:hover { patch }     another patch is pointed at, or none (-1)
//   ssast:pin   { patch }     another patch is pinned, or none (-1)
//   ssast:version { version } another version is chosen to be heard
//   ssast:layer { layer }     another layer is seen
//   ssast:lent  {}            other layers and sounds are lent
//   ssast:play  { patch }     a patch begins to be heard
(() => {
  const LAYERS = {
    original: ["Original", "what was heard"],
    masked: ["Masked", "all that the model was given"],
    reconstructed: ["Reconstructed", "what was visible as it is, what was hidden as the model drew it"],
    error: ["Error", "reconstruction minus original, where it was hidden"],
    recognised: ["Recognised", "green: hidden and recognised; orange: hidden and taken for another; grey: visible"],
  };
  const VERSIONS = {
    original: ["Original", "the sound itself"],
    masked: ["Masked", "what the model was given, with silence where it was hidden"],
    reconstructed: ["Reconstructed", "what the model drew, made audible"],
    ceiling: ["Ceiling", "the original log-mel made audible: no model can sound better on this way back to sound"],
  };
  const TOOLS = {
    listen: ["Listen", "L", "click: go there and pin the patch; drag: hear only that time and band; double click: hear the patch"],
    brush: ["Hide", "B", "paint over patches to hide them from the model"],
    eraser: ["Show", "E", "paint over patches to show them to the model"],
    box: ["Box", "X", "drag a box: its patches are hidden, or shown if it begins at a hidden one"],
  };
  const READ = {
    seconds: "Time", hertz: "Frequency", note: "Note", decibel: "Level", bin: "Mel bin", patch: "Patch", mse: "MSE", fate: "To the model",
  };
  const HELP = "Space plays and pauses. 1 to 4 choose what is heard. Arrows move the pinned patch, Enter hides or shows it, P plays " +
    "it, Escape frees it. Plus, minus and 0 zoom, Shift with an arrow moves along. Control Z takes a stroke back.";
  const SLIP = 4; // pixels that a click may wander
  const QUIET = 150; // milliseconds without a new picture before its sounds are asked for
  const LEAST = 12; // frames that are seen at the highest zoom

  let active = null; // the stage that keys are for when nothing has the focus

  const choice = (group, label, entries, extra = () => "") =>
    `<div class="stage-choice" role="group" aria-label="${label}">` +
    Object.entries(entries).map(([name, words]) =>
      `<button type="button" data-${group}="${name}" title="${words.at(-1)}" aria-pressed="false">${extra(name, words)}${words[0]}</button>`,
    ).join("") + "</div>";

  const rows = (whose, title) => `<div class="stage-reading" data-of="${whose}"><b>${title}</b>` +
    Object.entries(READ).map(([key, name]) => `<span class="of-${key}"><i>${name}</i><output data-read="${key}">–</output></span>`).join("") + "</div>";

  const markup = () => `
    <div class="stage-bar">
      ${choice("layer", "Picture", { all: ["All", "every layer, one under another"], ...LAYERS })}
      <div class="stage-tools">${choice("tool", "Tool", TOOLS)}
        <div class="stage-choice" role="group" aria-label="Mask">
          <button type="button" data-do="undo" title="Take the last stroke back (Ctrl+Z)">Undo</button>
          <button type="button" data-do="rest" title="Hide what is visible and show what is hidden">Hide the rest</button>
          <button type="button" data-do="clear" title="Show all patches to the model">Clear</button>
        </div></div>
    </div>
    <div class="stage-title"><span class="stage-caption"></span><span class="stage-legend" hidden><span></span><i></i><span></span></span></div>
    <div class="stage-view"><canvas tabindex="0" role="application"></canvas><span class="stage-busy" hidden>the model draws…</span></div>
    <div class="stage-bar stage-transport">
      <button type="button" class="stage-play" data-do="play" aria-label="Play" title="Play or pause (space)"><svg viewBox="0 0 16 16" aria-hidden="true"><path class="is-play" d="M4 2.5v11l9.5-5.5z"/><path class="is-pause" d="M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z"/></svg></button>
      <output class="stage-clock">0.00</output>
      ${choice("version", "Sound", VERSIONS, (name) => `<kbd>${Object.keys(VERSIONS).indexOf(name) + 1}</kbd>`)}
      <div class="stage-choice" role="group" aria-label="View">
        <button type="button" data-do="grid" aria-pressed="true" title="Lines between the patches, and around what is hidden">Grid</button>
        <button type="button" data-do="out" title="Zoom out (-)" aria-label="Zoom out">−</button>
        <button type="button" data-do="in" title="Zoom in (+)" aria-label="Zoom in">+</button>
        <button type="button" data-do="whole" title="The whole window (0)">Whole</button>
      </div>
      <details class="stage-save"></details>
    </div>
    <div class="stage-readings">${rows("pointer", "Pointer")}${rows("pinned", "Pinned")}</div>
    <p class="stage-spoken" aria-live="polite"></p>`;

  function mount(element, callbacks) {
    const root = Object.assign(document.createElement("div"), { className: "stage", innerHTML: markup() });
    element.replaceChildren(root);
    active = root;
    const find = (selector) => root.querySelector(selector), canvas = find("canvas"), context = canvas.getContext("2d");
    const player = ssast.player(() => refresh());
    canvas.setAttribute("aria-description", HELP);

    let heard = null; // the sounds as they came
    let picture = null, panels = [], narrow = false, width = 0, waiting = 0;
    let layer = "reconstructed", tool = "listen", grid = true, from = 0, to = 1;
    let hover = -1, pinned = -1, point = null; // point: { name, frame, bin } under the pointer
    let fingers = new Map(), held = null; // pointer -> where it is across; how two of them began: { x, from, to }
    let drag = null; // what the pointer does between down and up
    let box = null; // the part that is heard: { from, until (frames), low, high (bins) }
    let marks = new Map(), overlay = null, pointed = -1; // what others show: colour -> patches, { values, canvas }, a patch
    let guests = [], gain = 1; // what is lent; what the sounds were scaled with
    let told = { hover: -1, pin: -1, version: "reconstructed", layer: "reconstructed" };
    let stroke = 0, answered = 0, undo = [], foreign = false, soundsKey = null;

    // ---- what comes in ----

    function show(data) {
      if (data.stroke !== null && data.stroke < stroke) return; // the answer to an earlier stroke
      const before = picture, same = before?.data.stretch === data.stretch, old = before && Uint8Array.from(before.mask);
      picture = ssast.picture(data);
      if (same) picture.lend(guests); // those of the mask before, until their lender knows this one
      else lend([]);
      drag = null;
      answered = stroke;
      if (!same) {
        [from, to] = alike(before, picture) ? [from, to].map((frame) => Math.min(frame, picture.grid.frames)) : [0, picture.grid.frames];
        box = null;
        player.forget();
        soundsKey = null;
      }
      if (before?.mask.length !== picture.mask.length || before.grid.rows !== picture.grid.rows) [pinned, hover, undo] = [-1, -1, []];
      else if (data.stroke === null && !foreign && !equal(old, picture.mask)) {
        undo.push(old); // a mask from elsewhere can be taken back as one stroke, however many came
        foreign = true;
      }
      clearTimeout(waiting);
      waiting = setTimeout(callbacks.hear, QUIET);
      if (before && (before.mask.length !== picture.mask.length || before.grid.rows !== picture.grid.rows)) clear();
      tell("shown", { picture });
      resize();
      refresh();
    }

    // Whether it is the same stretch for another model, whose patches end some frames earlier or later.
    function alike(one, other) {
      if (!one || one.data.start !== other.data.start || Math.abs(one.grid.frames - other.grid.frames) > 16) return false;
      const level = ({ data, levels }, at) => data.floor + data.step * levels.original[at];
      for (let at = 0; at < Math.min(one.levels.original.length, other.levels.original.length); at += 61) if (Math.abs(level(one, at) - level(other, at)) > 2) return false;
      return true;
    }

    function hear(sounds) {
      if (!picture || sounds.stretch !== picture.data.stretch) return;
      const versions = Object.keys(VERSIONS).map((name) => [name, new Int16Array(ssast.bytes(sounds[name]).buffer)]);
      player.load(Object.fromEntries(versions), sounds.rate, sounds.scale);
      heard = sounds;
      [soundsKey, gain] = [sounds.key, sounds.gain];
      lendSounds();
      refresh();
    }

    // ---- what others show, and are told ----

    function clear() {
      [marks, overlay, pointed] = [new Map(), null, -1];
      if (guests.length) lend([]);
      draw();
    }

    const layers = () => ({ ...LAYERS, ...Object.fromEntries(guests.map(({ name, words }) => [name, words])) });

    function lend(given) {
      const gone = guests.map(({ name }) => name).filter((name) => !given.some((one) => one.name === name));
      if (gone.includes(layer)) layer = "reconstructed";
      if (gone.includes(player.chosen)) player.choose("reconstructed");
      player.drop(gone);
      guests = given;
      picture.lend(guests);
      lendSounds();
      for (const [group, first] of [["layer", 0], ["version", Object.keys(VERSIONS).length]]) {
        for (const button of root.querySelectorAll(`[data-${group}].is-lent`)) button.remove();
        find(`[data-${group}]`).parentElement.insertAdjacentHTML("beforeend", guests.map(({ name, words }, place) =>
          `<button type="button" class="is-lent" data-${group}="${name}" title="${words[1]}" aria-pressed="false">${first ? `<kbd>${first + place + 1}</kbd>` : ""}${words[0]}</button>`).join(""));
      }
      refresh();
      tell("lent", {});
    }

    function lendSounds() {
      if (!soundsKey) return; // their gain is not known yet
      for (const { name, sound } of guests) if (sound) player.add(name, sound.samples, sound.scale * gain);
    }

    function mark(patches, colour) {
      marks.set(colour, patches);
      draw();
    }

    function lay(values, colour = "#4df0d8") {
      overlay = values && { values, canvas: ssast.overlay(values, colour, picture.grid) };
      draw();
    }

    function pointAt(patch) {
      pointed = patch;
      draw();
    }

    function see(name) {
      if (name === "all" || name in layers()) layer = name;
      refresh();
    }

    function pin(patch) {
      pinned = patch;
      refresh();
    }

    function play([patch, ...others], version = player.chosen) {
      if (patch === undefined || !player.has(version)) return;
      const { from: begin, until, band } = picture.heard(patch);
      box = null;
      player.part(begin, until, band, { version, then: () => play(others, version) });
      tell("play", { patch });
    }

    function listen(from, until, version = player.chosen) {
      box = null;
      if (player.has(version)) player.part(from, until, null, { version });
    }

    const tell = (what, detail) => root.dispatchEvent(new CustomEvent(`ssast:${what}`, { bubbles: true, detail: { stage, ...detail } }));

    function tellChanges() {
      const before = told;
      told = { hover, pin: pinned, version: player.chosen, layer };
      for (const what of ["hover", "pin"]) if (told[what] !== before[what]) tell(what, { patch: told[what] });
      for (const what of ["version", "layer"]) if (told[what] !== before[what]) tell(what, { [what]: told[what] });
    }

    // ---- what goes out ----

    function send() {
      stroke += 1;
      const hidden = [];
      picture.mask.forEach((value, patch) => value && hidden.push(patch));
      callbacks.paint(hidden, stroke);
      refresh();
    }

    function change(next) {
      if (callbacks.still || equal(next, picture.mask)) return;
      undo.push(Uint8Array.from(picture.mask));
      foreign = false;
      picture.repaint(next);
      send();
    }

    function takeBack() {
      const before = undo.pop();
      if (!before) return;
      picture.repaint(before);
      send();
    }

    function toggle(patch) {
      const next = Uint8Array.from(picture.mask);
      next[patch] = 1 - next[patch];
      change(next);
    }

    // ---- time ----

    function zoom(factor, around) {
      const { frames } = picture.grid, span = Math.min(Math.max((to - from) * factor, Math.min(LEAST, frames)), frames);
      const share = (around - from) / (to - from);
      look(around - share * span, span);
    }

    function look(begin, span = to - from) {
      from = Math.min(Math.max(begin, 0), picture.grid.frames - span);
      to = from + span;
      draw();
    }

    const middle = () => (pinned >= 0 ? centre(pinned).frame : player.playing ? picture.frameOf(player.time()) : (from + to) / 2);

    function playBox() {
      const { timeOf, hertzOf } = picture;
      player.part(timeOf(box.from), timeOf(box.until), [hertzOf(box.low), hertzOf(box.high)]);
    }

    function playPatch(patch) {
      if (patch >= 0) play([patch]);
    }

    function playOrPause() {
      if (player.playing) player.stop();
      else if (box) playBox();
      else player.play();
    }

    function choose(version) {
      if (!player.has(version) && !(version in { ...VERSIONS, ...layers() })) return;
      player.choose(version);
      if (layer !== "all") layer = version === "ceiling" ? "original" : version;
      refresh();
    }

    function playWhole(version) {
      choose(version);
      if (!player.has(version)) return;
      box = null;
      player.seek(0);
      player.play();
    }

    // ---- pointing ----

    function at(event) {
      const area = canvas.getBoundingClientRect(), x = event.clientX - area.left, y = event.clientY - area.top;
      const panel = panels.find((one) => y < one.y + one.h) ?? panels[panels.length - 1];
      const { bins } = picture.grid;
      const inside = x >= panel.x && x < panel.x + panel.w && y >= panel.y && y < panel.y + panel.h;
      const frame = from + ((x - panel.x) / panel.w) * (to - from), bin = ((panel.y + panel.h - y) / panel.h) * bins;
      return { x, y, inside, name: panel.name, frame: clamp(frame, from, to - 1e-6), bin: clamp(bin, 0, bins - 1e-6) };
    }

    const patchOf = (spot) => picture.patchAt(spot.frame, spot.bin);

    function centre(patch) {
      const { low, high, first, end } = picture.bounds(patch);
      return { frame: (first + end) / 2, bin: (low + high) / 2 };
    }

    function press(event) {
      const spot = picture && at(event);
      if (!spot?.inside || event.button) return;
      active = root;
      fingers.set(event.pointerId, event.clientX);
      if (fingers.size > 1) return pinch();
      canvas.setPointerCapture(event.pointerId);
      drag = { start: spot, last: spot, far: false, mask: Uint8Array.from(picture.mask), next: Uint8Array.from(picture.mask) };
      if (tool === "brush" || tool === "eraser") paintTo(spot);
      draw();
    }

    // Two fingers hold the frames that they lie on.
    function pinch() {
      if (drag) picture.repaint(drag.mask);
      [drag, box] = [null, null];
      held = fingers.size === 2 ? { x: [...fingers.values()], from, to } : null;
      draw();
    }

    function spread() {
      const [one, two] = fingers.values(), [first, second] = held.x, { x, w } = panels[0], left = canvas.getBoundingClientRect().left + x;
      const frames = held.to - held.from, span = clamp((frames * Math.max(Math.abs(second - first), 20)) / Math.max(Math.abs(two - one), 20), Math.min(LEAST, picture.grid.frames), picture.grid.frames);
      const frame = held.from + ((first + second) / 2 - left) / w * frames;
      look(frame - ((one + two) / 2 - left) / w * span, span);
    }

    function leave(event) {
      fingers.delete(event.pointerId);
      if (!fingers.size) held = null;
    }

    function move(event) {
      if (!picture) return;
      if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event.clientX);
      if (held) return fingers.size === 2 ? spread() : undefined;
      const spot = at(event);
      point = spot.inside || drag ? spot : null;
      hover = point ? patchOf(spot) : -1;
      if (drag) {
        drag.far ||= Math.hypot(spot.x - drag.start.x, spot.y - drag.start.y) > SLIP;
        if (tool === "brush" || tool === "eraser") paintTo(spot);
        else if (drag.far) box = boxTo(spot);
        drag.last = spot;
      }
      draw();
    }

    function lift(event) {
      leave(event);
      if (!drag) return;
      const { start, far, mask, next } = drag;
      drag = null;
      if (tool === "listen") far ? playBox() : goTo(start);
      else if (tool === "box") fill(start);
      else if (!equal(mask, next)) {
        picture.repaint(mask); // back to what it was, so that undo finds it
        change(next);
      }
      refresh();
    }

    function goTo(spot) {
      box = null;
      pinned = patchOf(spot);
      player.seek(picture.timeOf(spot.frame));
      say();
    }

    // Every patch on the way from the last place, for the pointer may leap over some.
    function paintTo(spot) {
      const { start, last, next } = drag, steps = Math.ceil(Math.hypot(spot.x - last.x, spot.y - last.y) / 3) || 1;
      for (let step = 0; step <= steps; step++) {
        const along = (key) => last[key] + ((spot[key] - last[key]) * step) / steps;
        const patch = spot.name === last.name ? picture.patchAt(along("frame"), along("bin")) : patchOf(spot);
        if (patch >= 0) next[patch] = tool === "brush" ? 1 : 0;
      }
      picture.repaint(next);
    }

    function boxTo(spot) {
      const { start } = drag;
      const corners = { from: start.frame, until: spot.frame, low: start.bin, high: spot.bin };
      if (corners.from > corners.until) [corners.from, corners.until] = [corners.until, corners.from];
      if (corners.low > corners.high) [corners.low, corners.high] = [corners.high, corners.low];
      if (tool !== "box") return corners;
      const { rows, columns, stride } = picture.grid, edge = (value, step, most) => Math.min(Math.floor(value / step), most - 1);
      return {
        from: edge(corners.from, stride[1], columns) * stride[1], until: (edge(corners.until, stride[1], columns) + 1) * stride[1],
        low: edge(corners.low, stride[0], rows) * stride[0], high: (edge(corners.high, stride[0], rows) + 1) * stride[0],
      };
    }

    function fill(start) {
      const next = Uint8Array.from(picture.mask), first = patchOf(start), value = 1 - picture.mask[first];
      const area = box;
      box = null;
      if (!area) return toggle(first);
      for (let patch = 0; patch < next.length; patch++) {
        const { frame, bin } = centre(patch);
        if (frame > area.from && frame < area.until && bin > area.low && bin < area.high) next[patch] = value;
      }
      change(next);
    }

    function wheel(event) {
      if (!picture || event.ctrlKey) return;
      const spot = at(event), whole = to - from >= picture.grid.frames;
      const along = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
      if (!spot.inside || (whole && (along || event.deltaY > 0))) return; // then the page scrolls
      event.preventDefault();
      if (along) look(from + ((event.deltaX || event.deltaY) / panels[0].w) * (to - from));
      else zoom(Math.exp(event.deltaY * 0.002), spot.frame);
    }

    // ---- keys ----

    const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };

    function step(key) {
      const { rows, columns } = picture.grid, [up, right] = ARROWS[key];
      const start = pinned >= 0 ? pinned : picture.patchAt((from + to) / 2, picture.grid.bins / 2);
      const row = Math.floor(start / columns) + (pinned >= 0 ? up : 0), column = (start % columns) + (pinned >= 0 ? right : 0);
      pinned = clamp(row, 0, rows - 1) * columns + clamp(column, 0, columns - 1);
      const { first, end } = picture.bounds(pinned), span = to - from;
      if (first < from) look(first - span * 0.1);
      else if (end > to) look(end - span * 0.9);
      say();
    }

    const KEYS = {
      " ": playOrPause, "+": () => zoom(0.6, middle()), "=": () => zoom(0.6, middle()), "-": () => zoom(1 / 0.6, middle()),
      "0": () => look(0, picture.grid.frames), p: () => playPatch(pinned >= 0 ? pinned : hover),
      Enter: () => pinned >= 0 && (toggle(pinned), say()),
      Escape: () => { [pinned, box] = [-1, null]; player.stop(); },
      l: () => (tool = "listen"), b: () => (tool = "brush"), e: () => (tool = "eraser"), x: () => (tool = "box"),
    };
    Object.keys(VERSIONS).forEach((name, place) => (KEYS[place + 1] = () => choose(name)));
    for (const key of Object.keys(ARROWS)) KEYS[key] = (event) => {
      const right = ARROWS[key][1];
      if (event.shiftKey && right) look(from + right * 0.2 * (to - from));
      else step(key);
    };

    function key(event) {
      const target = event.target, ours = root.contains(target);
      if (!picture || event.altKey || !(ours || (active === root && (target === document.body || target.closest(".view, [role=tab]"))))) return;
      if (target.matches("select, input")) return;
      const command = event.ctrlKey || event.metaKey, name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      if (target.closest("button") && (name === " " || name === "Enter")) return; // a button's own
      if (!ours && (name in ARROWS || name === "Enter")) return; // the page's own
      const act = command ? name === "z" && takeBack : KEYS[name] ?? (guests[name - Object.keys(VERSIONS).length - 1] && (() => choose(guests[name - Object.keys(VERSIONS).length - 1].name)));
      if (!act) return;
      event.preventDefault();
      act(event);
      refresh();
    }

    // ---- what is seen ----

    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const equal = (one, other) => one.length === other.length && one.every((value, i) => value === other[i]);
    const signed = (value) => value.toFixed(0).replace("-", "−");
    const noun = () => picture.data.noun;
    const names = () => (layer === "all" ? Object.keys(layers()) : [layer]);

    function resize() {
      if (!picture) return;
      width = find(".stage-view").clientWidth;
      const plan = ssast.layout(names(), width, layers()), ratio = window.devicePixelRatio || 1;
      [panels, narrow] = [plan.panels, plan.narrow];
      const [wide, high] = [Math.round(width * ratio), Math.round(plan.height * ratio)];
      if (canvas.width !== wide || canvas.height !== high) {
        Object.assign(canvas, { width: wide, height: high });
        canvas.style.height = `${plan.height}px`;
      }
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      draw();
    }

    let asked = 0;
    function draw() {
      tellChanges();
      asked ||= requestAnimationFrame(() => {
        asked = 0;
        if (!picture) return;
        const style = getComputedStyle(root), ink = {
          text: style.getPropertyValue("--stage-text"), quiet: style.getPropertyValue("--stage-quiet"), pin: style.getPropertyValue("--stage-pin"),
          font: `11px ${style.fontFamily}`, heading: `600 12px ${style.fontFamily}`,
        };
        if (player.playing) follow();
        context.clearRect(0, 0, width, canvas.height);
        ssast.draw(context, {
          picture, panels, width, from, to, ink, hover: hover < 0 ? pointed : hover, pinned, box, grid, narrow, overlay: overlay?.canvas, marks,
          cursor: player.has(player.chosen) ? picture.frameOf(player.time()) : null, point: point ? point.frame : null, veiled: tool !== "listen",
        });
        find(".stage-clock").textContent = `${(picture.data.start + player.time()).toFixed(2)} s`;
        write("pointer", point);
        write("pinned", pinned >= 0 ? { name: names()[0], ...centre(pinned) } : null);
        if (player.playing) draw();
      });
    }

    // The view goes along with the cursor, a screen at a time.
    function follow() {
      const frame = picture.frameOf(player.time()), span = to - from;
      if (span < picture.grid.frames && (frame > to || frame < from)) look(frame - 0.05 * span);
    }

    function words(spot) {
      const read = picture.reading(spot.name, spot.frame, spot.bin), others = picture.hiddenCount() - 1;
      const fate = !read.hidden ? "visible" : read.rank < 0 ? "hidden" : read.rank === 0 ? "hidden, recognised"
        : `hidden, ${read.rank} of ${others} looked likelier`;
      return {
        seconds: `${read.seconds.toFixed(3)} s`, hertz: `${read.hertz.toFixed(0)} Hz`, note: read.note, bin: `${read.bin}`,
        decibel: read.decibel === null ? "–" : `${signed(read.decibel)} dB`, patch: read.patch < 0 ? "–" : `${read.patch}`, fate,
        mse: read.hidden && !Number.isNaN(read.mse) ? read.mse.toFixed(3) : "–",
      };
    }

    function write(whose, spot) {
      const said = spot ? words(spot) : {};
      const row = find(`[data-of=${whose}]`);
      row.classList.toggle("is-empty", !spot);
      for (const key of Object.keys(READ)) {
        const field = row.querySelector(`[data-read=${key}]`), text = said[key] ?? "–";
        if (field.textContent !== text) field.textContent = text;
      }
    }

    function say() {
      const { seconds, hertz, fate, mse, patch } = words({ name: names()[0], ...centre(pinned) });
      find(".stage-spoken").textContent = `${noun()} ${patch}, ${seconds}, ${hertz}, ${fate}${mse === "–" ? "" : `, MSE ${mse}`}`;
    }

    function markChosen(group, chosen) {
      for (const button of root.querySelectorAll(`[data-${group}]`)) button.setAttribute("aria-pressed", button.dataset[group] === chosen);
    }

    function refresh() {
      if (!picture) return;
      markChosen("layer", layer);
      markChosen("tool", tool);
      markChosen("version", player.chosen);
      for (const button of root.querySelectorAll("[data-version]")) {
        button.disabled = !player.has(button.dataset.version);
        const fixed = ["original", "ceiling"].includes(button.dataset.version);
        button.classList.toggle("is-late", button.disabled || (!fixed && soundsKey !== picture.data.key));
      }
      find("[data-do=play]").disabled = !player.has(player.chosen);
      root.classList.toggle("is-playing", player.playing);
      find("[data-do=play]").setAttribute("aria-label", player.playing ? "Pause" : "Play");
      find("[data-do=grid]").setAttribute("aria-pressed", grid);
      if (!callbacks.still) find("[data-do=undo]").disabled = !undo.length;
      find(".stage-busy").hidden = answered === stroke;
      canvas.style.cursor = "crosshair";
      canvas.style.touchAction = tool === "listen" ? "pan-y" : "none";
      canvas.setAttribute("aria-label", `Spectrogram of ${picture.mask.length} ${picture.data.plural}, ${picture.hiddenCount()} of them hidden`);
      const title = noun()[0].toUpperCase() + noun().slice(1);
      for (const label of root.querySelectorAll(".of-patch i")) label.textContent = title;
      caption();
      resize();
    }

    function caption() {
      const { data } = picture, legend = find(".stage-legend"), error = layer === "error";
      find(".stage-caption").textContent = layer === "all" ? "All layers" : layers()[layer].join(": ");
      legend.hidden = layer === "recognised";
      const [first, bar, last] = legend.children, range = error ? [-data.most, data.most] : [data.low, data.high];
      [first.textContent, last.textContent] = range.map((value, end) => `${value > 0 && error ? "+" : ""}${signed(value)}${end ? " dB" : ""}`);
      bar.style.background = `linear-gradient(90deg, ${gradient(ssast.bytes(data.colours[error ? "deviation" : "loudness"]))})`;
    }

    function gradient(palette) {
      const count = palette.length / 3, stops = [];
      for (let i = 0; i < 12; i++) stops.push(`rgb(${palette.subarray(...[0, 3].map((end) => 3 * Math.round((i * (count - 1)) / 11) + end))})`);
      return stops.join(", ");
    }

    // ---- what is touched ----

    const DO = {
      play: playOrPause, undo: takeBack, rest: () => change(picture.mask.map((value) => 1 - value)),
      clear: () => change(new Uint8Array(picture.mask.length)), grid: () => (grid = !grid),
      in: () => zoom(0.6, middle()), out: () => zoom(1 / 0.6, middle()), whole: () => look(0, picture.grid.frames),
    };

    function click(event) {
      const button = event.target.closest("button");
      if (!button || !picture) return;
      const { layer: chosen, tool: taken, version, do: act } = button.dataset;
      if (chosen) layer = chosen;
      if (taken) tool = taken;
      if (version) choose(version);
      if (act) DO[act]();
      refresh();
    }

    root.addEventListener("click", click);
    root.addEventListener("focusin", () => (active = root));
    canvas.addEventListener("pointerdown", press);
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", (event) => {
      leave(event);
      if (drag) picture.repaint(drag.mask);
      [drag, box] = [null, null];
      draw();
    });
    canvas.addEventListener("pointerleave", () => {
      [point, hover] = [null, -1];
      draw();
    });
    canvas.addEventListener("dblclick", () => tool === "listen" && playPatch(pinned));
    canvas.addEventListener("wheel", wheel, { passive: false });
    document.addEventListener("keydown", (event) => (root.isConnected ? key(event) : null));
    new ResizeObserver(() => resize()).observe(find(".stage-view"));
    new MutationObserver(draw).observe(document.body, { attributeFilter: ["class"] });

    const stage = {
      element: root, show, hear, mark, clear, pin, play, lend, choose, listen, playWhole, see, overlay: lay, point: pointAt,
      sound: () => ({ name: player.chosen, rate: player.rate, samples: player.samples(player.chosen) }),
      sounds: () => heard,
      paint: (mask) => change(Uint8Array.from(mask)),
      state: () => ({
        picture, panels, layer, tool, from, to, hover, pinned, box, version: player.chosen, playing: player.playing, time: player.time(),
        clock: player.clock, ready: soundsKey === picture?.data.key, settled: answered === stroke, length: player.length, marks, overlay, pointed, guests,
        heard: (version) => player.has(version),
      }),
    };
    if (callbacks.still) for (const gone of root.querySelectorAll(".stage-tools, .stage-save")) gone.remove();
    else ssast.saving(root, stage, canvas, callbacks.code);
    return stage;
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { mount });
})();
