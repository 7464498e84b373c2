// Says when the page no longer follows its run: the server does not answer, or the page's kernel has ended.
(() => {
  if (window.jindAlive) return;
  window.jindAlive = true;
  const SECONDS = 10;
  const PATIENCE = 8; // seconds
  const FAILURES = 2; // one may be a train in a tunnel
  let failures = 0;

  const notice = document.createElement("div");
  notice.className = "gone";
  notice.setAttribute("role", "alert");
  notice.hidden = true;
  document.body.prepend(notice);
  const show = (text) => {
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = !text;
  };

  const kernel = () => {
    const data = document.getElementById("jupyter-config-data");
    try { return JSON.parse(data.textContent).kernelId || ""; } catch { return ""; }
  };

  async function ask() {
    let text = "";
    try {
      const answer = await fetch("alive?kernel=" + encodeURIComponent(kernel()), {
        cache: "no-store",
        redirect: "manual",
        signal: AbortSignal.timeout(PATIENCE * 1000), // where a network only swallows, nothing else ends the wait
      });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        text = "You are logged out. Open the whole address that you were given again; runs at work continue.";
      } else if (answer.ok) {
        if (!(await answer.json()).kernel) {
          text = "This page was closed by the server, after a restart or a long pause. Reload it: runs and files are kept.";
        }
      } else throw new Error(answer.status);
      failures = 0;
    } catch {
      failures += 1;
      if (failures < FAILURES) return;
      text = "The server does not answer, so this page may show an old state. Runs continue without it. Trying again …";
    }
    show(text);
  }
  setInterval(ask, SECONDS * 1000);

  document.addEventListener("click", async (event) => {
    if (!event.target.closest || !event.target.closest("button.logout")) return;
    const xsrf = (document.cookie.match(/(?:^|; )_xsrf=([^;]*)/) || ["", ""])[1];
    const url = "logout?kernel=" + encodeURIComponent(kernel());
    const answer = await fetch(url, { method: "POST", headers: { "X-XSRFToken": xsrf } }).catch(() => null);
    if (answer && answer.ok) location.href = "logout";
    else show("You are still logged in: the server did not answer. Try again, or delete this page's cookies.");
  });
})();
