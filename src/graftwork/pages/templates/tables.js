// A table is sorted by the column whose head is pressed: numbers first down, then up; words first up.
const number = (text) => parseFloat(text.replaceAll(",", "").replace("\u2212", "-").replace("+", ""));
const letters = new Intl.Collator("en", {sensitivity: "base"});
// 0.05 before 0.1, 2 before 10: a collator would take the digits behind a point for a whole number.
const parts = (text) => text.split(/(\d+(?:\.\d+)?(?:e[+-]?\d+)?)/);
function words(a, b) {
  const [mine, theirs] = [parts(a), parts(b)];
  for (let i = 0; i < Math.min(mine.length, theirs.length); i++) {
    const order = i % 2 ? mine[i] - theirs[i] : letters.compare(mine[i], theirs[i]);
    if (order) return order;
  }
  return mine.length - theirs.length;
}
for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const numeric = !head.classList.contains("t");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const down = now ? now === "ascending" : numeric;
      const keyed = [...body.rows].map((row) => {
        const text = row.cells[place].firstChild?.textContent.trim() ?? "";
        return [row, numeric ? number(text) : text];
      });
      keyed.sort(([, a], [, b]) => {
        if (!numeric) return (down ? -1 : 1) * words(a, b);
        if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
        return (down ? -1 : 1) * (a - b);
      });
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...keyed.map(([row]) => row));
    });
  });
}
