// Photos that are dropped on the page, chosen from a dialog, or put into the folder meanwhile.

import { write } from "./api.js";
import { byId } from "./dom.js";

/** Has the folder looked at when the page opens, and when a person comes back to it. */
export function listenToFolder(changed) {
  const look = () => write("POST", "/photos/look").then((found) => found.changed && changed(), () => {});
  window.addEventListener("focus", look);
  look();
}

export function listenToDrops({ added, refused, failed }) {
  const send = async (files) => {
    for (const file of files) {
      const body = new FormData();
      body.append("files", file, file.name);
      try {
        const answer = await write("POST", "/photos", { body });
        answer.refused.forEach(refused);
        if (answer.added.length) added(answer.added);
      } catch (error) {
        failed(file.name, error);
      }
    }
  };
  const hint = (shown) => (byId("stage-drop").hidden = !shown);
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    hint(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) hint(false);
  });
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    hint(false);
    send([...event.dataTransfer.files]);
  });
  const input = byId("upload-input");
  input.addEventListener("change", async () => {
    await send([...input.files]);
    input.value = "";
  });
}
