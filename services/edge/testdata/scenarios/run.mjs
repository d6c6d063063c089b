// Plays every scenario against an edge:
//   node run.mjs --edge BINARY [--only PATTERN]
import { duties } from './duties.mjs';
import { limits } from './limits.mjs';
import { scenarios } from './scenarios.mjs';

const args = process.argv.slice(2);
const option = (name) => (args.includes(name) ? args[args.indexOf(name) + 1] : undefined);
const binary = option('--edge');
const only = option('--only');
let failed = 0;
let passed = 0;
for (const [name, play] of [...scenarios, ...duties, ...limits]) {
  if (only && !name.includes(only)) continue;
  const cleanups = [];
  const start = Date.now();
  try {
    await play({ binary, cleanup: (f) => (cleanups.push(f), f) });
    ++passed;
    console.log(`ok    ${name} (${Date.now() - start} ms)`);
  } catch (error) {
    ++failed;
    console.log(`FAIL  ${name}: ${error.stack}`);
  }
  for (const clean of cleanups.reverse()) await clean();
}
console.log(`${passed} scenarios passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
