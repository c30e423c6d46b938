// The views under the stage. A view's script says
//
//   ssast.view(name, (element, host) => ({ show, hover, pin, close }))
//
// It lays out its panel in the element, once, and gives back what is called of it while its tab is open; only `show` is needed:
//
//   show(answer)   what its Python `look` gave, for the picture that the stage shows now
//   hover(patch)   another patch of the stage is pointed at, or none (-1)
//   pin(patch)     another patch is pinned, or none (-1)
//   version(name)  another version is chosen to be heard
//   later(data)    what its Python `later` gave, which is asked for once it is shown, if there is one: sounds, say
//   close()        its tab is left; the stage's marks and overlay are cleared for it
//
// and it is given
//
//   host.ask(asked)   asks Python for what `asked`, plain JSON, names; the same is asked again of every later picture
//   host.act(asked)   has the stage show what the view's Python `act` makes of it: another model or sound
//   host.upload(file) sends a file to the server: a promise of its { path } there
//   host.name         the view's, under which its browser may keep something
//   host.stage        the stage, whose own comment says what may be asked of it: stage.mark, overlay, point, pin, play, paint, state
//
// Python is asked when the tab is opened, unless its last answer is that of the shown picture, and when another picture is shown
// while it is open. An answer to an older question is passed over.
(() => {
  const makers = {};
  const PATIENCE = 40; // milliseconds in which a slider may go on before Python is asked
  const LOST = 20_000; // milliseconds without an answer after which Python is asked once more: one is lost when its stream is just being closed
  const QUIET = 200; // milliseconds without another answer before what comes later is asked for

  // ---- what most views need ----

  // Buttons of which one is chosen: [name, title, explanation] each.
  const choice = (label, entries) => `<div class="stage-choice" role="group" aria-label="${label}">${entries.map(([name, title, words = ""]) =>
    `<button type="button" data-choose="${name}" title="${words}" aria-pressed="false">${title}</button>`).join("")}</div>`;

  function choose(group, name) {
    for (const button of group.querySelectorAll("[data-choose]")) button.setAttribute("aria-pressed", button.dataset.choose === String(name));
  }

  const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;
  const capital = (word) => word[0].toUpperCase() + word.slice(1);

  // "1.32 s, 874 Hz": the middle of a patch.
  function place(picture, patch) {
    const { low, high, first, end } = picture.bounds(patch), hertz = picture.hertzOf((low + high) / 2 - 0.5);
    const seconds = (picture.data.start + picture.timeOf((first + end) / 2)).toFixed(2);
    return picture.grid.rows === 1 ? `${seconds} s` : `${seconds} s, ${hertz < 1000 ? hertz.toFixed(0) : `${(hertz / 1000).toFixed(1)}k`} Hz`;
  }

  // The patch of a small picture of one pixel for each that a pointer is at.
  function patchUnder(canvas, event) {
    const area = canvas.getBoundingClientRect(), within = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
    const column = within((event.clientX - area.left) / area.width, canvas.width);
    return within((area.bottom - event.clientY) / area.height, canvas.height) * canvas.width + column;
  }

  // A patch of a layer as a picture of its own.
  function drawPatch(canvas, picture, patch, layer = "original") {
    const { low, high, first, end } = picture.bounds(patch);
    Object.assign(canvas, { width: end - first, height: high - low });
    canvas.getContext("2d").drawImage(picture.layer(layer), first, picture.grid.bins - high, end - first, high - low, 0, 0, end - first, high - low);
  }

  // A panel of the page: `send(asked, ticket)` asks, and what comes back goes to `answer`. It belongs to the stage that is given, or
  // to the only one of its page.
  function openView(name, words, element, send, sendLater, { act, upload, own = null } = {}) {
    const part = (tag, more) => Object.assign(document.createElement(tag), more), root = part("div", { className: "stage view" });
    const hint = part("p", { className: "view-hint", textContent: words }), body = part("div", { className: "view-body" });
    const refused = part("p", { className: "view-refused", hidden: true });
    root.append(hint, refused, body);
    element.replaceChildren(root);
    const life = new AbortController(), teller = own?.element ?? document;
    const listen = (what, act) => teller.addEventListener(`ssast:${what}`, act, { signal: life.signal });
    let view = null, asked = {}, ticket = 0, waiting = 0, open = false, last = null; // last: the latest answer

    const host = {
      stage: own ?? document.querySelector("#stage .stage")?.parentElement.stage,
      name, act, upload,
      ask(next) {
        asked = next;
        question();
      },
    };

    function question() {
      clearTimeout(waiting);
      if (!open || !host.stage?.state().picture) return;
      ticket += 1;
      root.classList.add("is-waiting");
      waiting = setTimeout(() => {
        send(asked, ticket);
        waiting = setTimeout(() => root.classList.contains("is-waiting") && send(asked, ticket), LOST);
      }, PATIENCE);
    }

    function answer(data) {
      if (!data || data.ticket !== ticket) return;
      if (data.later) return open && view.later(data.later);
      clearTimeout(waiting);
      root.classList.remove("is-waiting");
      last = data;
      refused.hidden = !data.refused;
      body.hidden = Boolean(data.refused);
      refused.textContent = data.refused ?? "";
      if (data.refused) return host.stage.clear();
      view ??= makers[name](body, host);
      if (!open) return;
      view.show(data);
      root.dataset.shows = data.key; // the picture's key, for whoever waits for it
      if (view.later) waiting = setTimeout(() => sendLater(asked, ticket), QUIET);
    }

    const fits = () => last?.ticket === ticket && last.key === host.stage.state().picture.data.key;

    // A tab is open while it has a size.
    function look() {
      const now = element.isConnected && element.getClientRects().length > 0;
      if (now === open) return;
      open = now;
      clearTimeout(waiting);
      if (open) waiting = setTimeout(() => host.stage?.state().picture && (fits() ? answer(last) : question())); // once the other tab is closed
      else {
        view?.close?.();
        host.stage?.clear();
      }
      if (!element.isConnected) life.abort();
    }

    const told = (what) => ({ detail }) => {
      look();
      if (open && view && !root.classList.contains("is-waiting")) view[what]?.(detail.patch ?? detail.version);
    };
    listen("shown", ({ detail }) => {
      host.stage = detail.stage;
      look();
      if (open && !fits()) question();
    });
    listen("hover", told("hover"));
    listen("pin", told("pin"));
    listen("version", told("version"));
    new ResizeObserver(look).observe(element);
    look();
    return { answer };
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, {
    openView, choice, choose, percent, capital, place, patchUnder, drawPatch,
    view: (name, make) => (makers[name] = make),
  });
})();
