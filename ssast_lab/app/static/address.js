// The page's address says what is shown, so that it shows the same elsewhere: the built-in sound and the window of it, the model and the
// mask, which Python puts there; and the open tab, the layer, the version and a painted mask, which only the browser knows.
(() => {
  const asked = location.search; // before anything writes it
  const KEYS = ["sound", "model", "hidden", "cluster", "seed", "start"];
  const USUAL = { layer: "reconstructed", version: "reconstructed" }; // what is as at first is not named
  const PAUSE = 80; // milliseconds in which a slider may go on: browsers limit how often an address changes
  const wanted = Object.fromEntries([...new URLSearchParams(asked)].filter(([key]) => ["tab", "layer", "version", "painted"].includes(key)));
  let next = {}, waiting = 0, touched = false, firstTab = null, painted = null;

  function write(values) {
    Object.assign(next, values);
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const address = new URL(location.href);
      for (const [key, value] of Object.entries(next)) {
        if (value === null || value === undefined) address.searchParams.delete(key);
        else address.searchParams.set(key, value);
      }
      next = {};
      if (!address.searchParams.has("sound")) address.searchParams.delete("painted"); // nobody else has what it is painted on
      history.replaceState(history.state, "", address);
    }, PAUSE);
  }

  // Values in the order of the keys; those that are none, such as the name of a visitor's own sound, are left out.
  function writeAddress(values) {
    const named = Object.fromEntries(KEYS.map((key, place) => [key, values[place]]));
    write({ ...named, start: named.sound && named.start > 0 ? named.start : null });
  }

  // Eight patches a byte, in the alphabet that addresses take; and back, or null where it is no mask of so many.
  function packed(mask) {
    const bits = new Uint8Array(Math.ceil(mask.length / 8));
    mask.forEach((hidden, patch) => (bits[patch >> 3] |= hidden << (patch & 7)));
    return ssast.packed(bits).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  }

  function unpacked(text, count) {
    if (!/^[\w-]+$/.test(text) || text.length !== Math.ceil((Math.ceil(count / 8) * 4) / 3)) return null;
    const bits = ssast.bytes(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from({ length: count }, (_, patch) => (bits[patch >> 3] >> (patch & 7)) & 1);
  }

  const tabs = () => [...document.querySelectorAll("#views [role=tab]")];
  const nameOf = (tab) => tab?.getAttribute("aria-controls")?.replace(/^tab-/, "");
  const openTab = () => nameOf(tabs().find((tab) => tab.getAttribute("aria-selected") === "true"));

  // Until the visitor touches anything, whatever comes late, such as the layers that a view lends, is shown as the address asks.
  function follow({ detail: { stage } }) {
    const { layer, version } = stage.state();
    if (!touched && wanted.version && wanted.version !== version) stage.choose(wanted.version);
    if (!touched && wanted.layer && wanted.layer !== layer) stage.see(wanted.layer);
    tell(stage);
  }

  function tell(stage) {
    const shown = stage.state(), open = openTab();
    write({ ...Object.fromEntries(Object.entries(USUAL).map(([key, usual]) => [key, shown[key] === usual ? null : shown[key]])), tab: open === firstTab ? null : open });
  }

  // A painted mask stays for another model or window whose patches are as many.
  function paint({ detail: { picture } }) {
    const mask = packed(picture.mask);
    if (picture.data.stroke !== null) painted = mask;
    else if (painted !== mask) painted = null;
    write({ painted });
  }

  function arrive({ detail: { stage, picture } }) {
    const mask = wanted.painted && unpacked(wanted.painted, picture.mask.length);
    if (mask) stage.paint(mask);
    firstTab = openTab();
    const title = JSON.parse(document.querySelector("#header header").dataset.tabs)[wanted.tab];
    [...document.querySelectorAll("#views :is([role=tab], .overflow-dropdown button)")].find((tab) => tab.textContent.trim() === title)?.click();
    new MutationObserver(() => tell(stage)).observe(document.querySelector("#views"), { attributeFilter: ["aria-selected"], subtree: true });
  }

  for (const what of ["pointerdown", "keydown", "wheel"]) document.addEventListener(what, (event) => (touched ||= event.isTrusted), { capture: true, passive: true });
  // A view that was saved as a file has this script, too, but no address to tell of.
  const told = (what, act, more) => document.addEventListener(`ssast:${what}`, (event) => document.querySelector("#header") && act(event), more);
  told("shown", arrive, { once: true });
  told("shown", paint);
  for (const what of ["shown", "version", "layer", "lent"]) told(what, follow);

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { openTab, askedFor: () => [asked], writeAddress });
})();
