// The lines of Python that make what is shown, in a window over the page, to be copied.
(() => {
  const markup = `
    <header><h2>The same in Python</h2><form method="dialog"><button aria-label="Close" title="Close (Esc)">✕</button></form></header>
    <p>These lines run as they stand, in any folder that has the sound and the model in it; what is built in is found everywhere.</p>
    <pre tabindex="0"></pre>
    <footer><button type="button" class="stage-copy" autofocus>Copy</button><output aria-live="polite"></output></footer>`;

  async function copy(pre, say) {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      say("Copied.");
    } catch { // a browser gives its clipboard to pages of this machine only
      getSelection().selectAllChildren(pre);
      say(document.execCommand("copy") ? "Copied." : "Selected: copy it with Ctrl+C.");
    }
  }

  function showCode(lines) {
    document.querySelector(".stage-code")?.remove();
    const dialog = Object.assign(document.createElement("dialog"), { className: "stage-code", innerHTML: markup });
    const pre = dialog.querySelector("pre");
    dialog.setAttribute("aria-label", "The same in Python");
    pre.textContent = lines;
    dialog.querySelector(".stage-copy").addEventListener("click", () => copy(pre, (words) => (dialog.querySelector("output").textContent = words)));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { showCode });
})();
