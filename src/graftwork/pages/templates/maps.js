for (const map of document.querySelectorAll("[data-map]")) {
  const data = JSON.parse(map.querySelector("script").textContent);
  const told = map.querySelector(".told");
  const tell = (cell) => {
    const uses = data.tasks.map((task, t) => [task, cell.tasks[t]]).filter(([, count]) => count);
    const parts = [cell.site];
    if (!cell.stored) parts.push("no adapter is open here");
    else {
      parts.push(uses.map(([task, count]) => task + " " + count).join(", "));
      parts.push(cell.stored + (cell.stored === 1 ? " adapter" : " adapters") + ", " + cell.parameters.toLocaleString("en") + " parameters" + (data.tasks.length > 1 ? ", " + cell.shared + " shared" : ""));
      if (data.tried) parts.push(cell.costs === null ? "closing them was not tried" : "closing the dearest raises the validation loss by " + cell.costs.toPrecision(2));
    }
    told.replaceChildren(...parts.map((text, place) => Object.assign(document.createElement(place ? "span" : "b"), {textContent: text})));
  };
  for (const button of map.querySelectorAll("[data-cell]")) {
    const show = () => tell(data.cells[button.dataset.cell]);
    for (const event of ["mouseenter", "focus", "click"]) button.addEventListener(event, show);
  }
}
