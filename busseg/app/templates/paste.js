// An image pasted anywhere on the page is uploaded like a picked file.
document.addEventListener("paste", (event) => {
  const picker = document.querySelector("#drop input[type=file]");
  if (!picker || !event.clipboardData.files.length) return;
  event.preventDefault();
  picker.files = event.clipboardData.files;
  picker.dispatchEvent(new Event("change", { bubbles: true }));
});
