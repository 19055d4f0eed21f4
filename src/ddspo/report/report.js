"use strict";
// Sorting and filtering of the comparisons. Without this script all of them are shown, ordered by category.
(function () {
  const form = document.getElementById("controls");
  const list = document.getElementById("cards");
  if (!form || !list) return;
  document.documentElement.classList.add("js");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());

  const cards = Array.from(list.children);
  const given = new Map(cards.map((card, index) => [card, index]));
  const chips = Array.from(form.querySelectorAll("button[data-outcome]"));
  const category = document.getElementById("by-category");
  const order = document.getElementById("by-order");
  const others = document.getElementById("with-others");
  const shown = document.getElementById("shown");
  let outcome = "";

  const change = (card) => Number(card.dataset.change);
  const orders = {
    given: (a, b) => given.get(a) - given.get(b),
    gains: (a, b) => change(b) - change(a) || given.get(a) - given.get(b),
    losses: (a, b) => change(a) - change(b) || given.get(a) - given.get(b),
    prompt: (a, b) => a.dataset.prompt.localeCompare(b.dataset.prompt) || given.get(a) - given.get(b),
  };

  function update() {
    let count = 0;
    for (const card of cards) {
      const fits = (!outcome || card.dataset.outcome === outcome)
        && (!category || !category.value || card.dataset.category === category.value);
      card.hidden = !fits;
      count += fits ? 1 : 0;
    }
    list.append(...cards.slice().sort(orders[order.value]));
    shown.textContent = count + " shown";
  }

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      outcome = chip.dataset.outcome;
      for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
      update();
    });
  }
  if (category) category.addEventListener("change", update);
  order.addEventListener("change", update);
  if (others) others.addEventListener("change", () => list.classList.toggle("with-others", others.checked));
  update();
})();
