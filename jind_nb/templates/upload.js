// Sends a chosen or dropped file to the server as it is on the disk; the page's kernel sees it appear in its folder.
(() => {
  if (window.jindUpload) return;
  window.jindUpload = true;
  const megabytes = (bytes) => (bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 }) + " MB";

  function send(area, file) {
    const bar = area.querySelector("progress");
    const said = area.querySelector("[role=status]");
    const stop = area.querySelector("button");
    const input = area.querySelector("input");
    const room = Number(area.dataset.room);
    const say = (text, wrong) => { said.textContent = text; said.className = wrong ? "bad" : ""; };
    if (!file.name.toLowerCase().endsWith(".h5ad")) return say(file.name + " is not an .h5ad file.", true);
    if (file.size > room) {
      return say(file.name + " has " + megabytes(file.size) + "; there is room for " + megabytes(room) + ".", true);
    }
    const request = new XMLHttpRequest();
    const done = (text, wrong) => {
      bar.hidden = stop.hidden = true;
      input.disabled = false;
      input.value = "";
      say(text, wrong);
    };
    request.upload.onprogress = (event) => {
      bar.value = event.loaded / file.size;
      say(megabytes(event.loaded) + " of " + megabytes(file.size));
    };
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* not ours: a proxy's page */ }
      if (request.status === 200) done(answer.name + " is uploaded.");
      else done("Not uploaded: " + (answer.message || "the server answered " + request.status) , true);
    };
    request.onerror = () => done("Not uploaded: the connection broke, or the server refused the file.", true);
    request.onabort = () => done("The upload was stopped.");
    request.open("POST", area.dataset.url + "?name=" + encodeURIComponent(file.name));
    request.setRequestHeader("X-XSRFToken", (document.cookie.match(/(?:^|; )_xsrf=([^;]*)/) || ["", ""])[1]);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    bar.value = 0;
    bar.hidden = stop.hidden = false;
    input.disabled = true;
    stop.onclick = () => request.abort();
    say("Uploading " + file.name);
    request.send(file);
  }

  const areaOf = (event) => event.target.closest && event.target.closest(".jind .drop");
  document.addEventListener("change", (event) => {
    if (areaOf(event) && event.target.files && event.target.files.length) send(areaOf(event), event.target.files[0]);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      const area = areaOf(event);
      if (!area) return;
      event.preventDefault();
      area.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) send(area, event.dataTransfer.files[0]);
    });
  }
})();
