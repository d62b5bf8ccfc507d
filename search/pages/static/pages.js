// What makes the pages quicker to use. Each of them works without.

import { watchSearch } from "./search.js";
import { watchCompare } from "./compare.js";
import { watchOperations } from "./operations.js";

for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;

watchSearch();
watchCompare();
watchOperations();
