// Pictures for a question: chosen, dropped, pasted, or from the browser's camera. They go to this service alone.

import { at, made, say } from "./elements.js";

let most = 1;
let told = () => {}; // is called with each change that a person made
let kept = []; // { file, address }
let open = false;
let label = "";

export const chosen = () => kept.map(({ file }) => file);

// Puts the chooser into a form.
export function offer(form, { wanted, described, at_most: limit = 1, changed }) {
  form.querySelector(".pictures").append(at("drop"));
  at("drop").hidden = false;
  at("wanted").textContent = wanted;
  at("file").multiple = limit > 1;
  [most, told, label, open] = [limit, changed, described, true];
  const here = Boolean(navigator.mediaDevices?.getUserMedia);
  at("camera").hidden = !here;
  at("no-camera").hidden = here;
}

export function close() {
  open = false;
  clear();
}

export function clear() {
  kept.forEach(({ address }) => URL.revokeObjectURL(address));
  set([]);
}

// Also without asking the person: where a question is put back.
export function put(files) {
  clear();
  set(files.map((file) => ({ file, address: URL.createObjectURL(file) })));
}

function take(files) {
  const images = [...files].filter((each) => each.type.startsWith("image/"));
  if (!images.length) return say("That is no picture.", true);
  if (most === 1) clear();
  const room = images.slice(0, most - kept.length);
  set([...kept, ...room.map((file) => ({ file, address: URL.createObjectURL(file) }))]);
  say(room.length < images.length ? `At most ${most} pictures at once.` : "", true);
  told();
}

function set(pictures) {
  kept = pictures;
  at("file").value = "";
  at("chosen").hidden = !kept.length;
  at("chosen").replaceChildren(...kept.map(preview));
}

function preview(picture) {
  const { file, address } = picture;
  const without = made("button", { type: "button", text: "Without it" });
  without.setAttribute("aria-label", `Without ${file.name}`);
  without.addEventListener("click", () => {
    URL.revokeObjectURL(address);
    set(kept.filter((each) => each !== picture));
    at("file").focus(); // what was clicked is gone
    told();
  });
  return made("li", {}, [made("img", { src: address, alt: `${label}: ${file.name}` }), without]);
}

at("file").addEventListener("change", () => {
  if (at("file").files.length) take([...at("file").files]);
});

for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // else the browser would leave the page for the picture
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && open) take(event.dataTransfer.files);
  });
}
addEventListener("paste", (event) => {
  if (open && event.clipboardData.files.length) take(event.clipboardData.files);
});

// ---- the camera

at("camera").addEventListener("click", async () => {
  try {
    const camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    at("seen-now").srcObject = camera;
    at("viewfinder").showModal();
  } catch (error) {
    say(`The browser gives no camera: ${error.message}.`, true);
  }
});

at("seen-now").addEventListener("loadeddata", () => {
  at("shoot").disabled = false;
  at("shoot").focus();
});

at("shoot").addEventListener("click", () => {
  const video = at("seen-now");
  const canvas = made("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  at("viewfinder").close();
  canvas.toBlob((blob) => take([new File([blob], "camera.jpg", { type: blob.type })]), "image/jpeg", 0.92);
});

at("unshot").addEventListener("click", () => at("viewfinder").close());
at("viewfinder").addEventListener("close", () => {
  at("seen-now").srcObject?.getTracks().forEach((track) => track.stop());
  at("seen-now").srcObject = null;
  at("shoot").disabled = true;
});
