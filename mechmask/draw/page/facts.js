"use strict";
// Search and filters of the list of facts. The address keeps them (#q=...&role=...&verdict=...), so that a view can be
// linked to. Without this script the list is whole.
(() => {
  const form = document.querySelector(".filters");
  if (!form) return;
  const rows = [...document.querySelectorAll(".facts tbody tr")];
  const plain = (text) => text.normalize("NFKC").toLocaleLowerCase();
  const texts = rows.map((row) => plain(row.textContent));
  const { q, role, verdict } = form.elements;
  const controls = { q, role, verdict };
  const show = () => {
    const words = plain(q.value).split(/\s+/).filter(Boolean);
    let n = 0;
    rows.forEach((row, i) => {
      const kept = words.every((word) => texts[i].includes(word)) && (!role.value || row.dataset.role === role.value)
        && (!verdict.value || row.dataset.verdicts.split(" ").includes(verdict.value));
      row.hidden = !kept;
      n += kept;
    });
    form.querySelector("output").textContent = `${n} of ${rows.length} facts`;
  };
  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const [name, control] of Object.entries(controls)) if (asked.has(name)) control.value = asked.get(name);
    show();
  };
  const write = () => {
    const asked = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) if (control.value) asked.set(name, control.value);
    history.replaceState(null, "", `#${asked}`);
    show();
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", write);
  window.addEventListener("hashchange", read);
  read();
})();
