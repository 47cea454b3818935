// Light or dark before anything is painted; without a choice the system decides.
"use strict";
{
  const kept = localStorage.getItem("edgekit-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
