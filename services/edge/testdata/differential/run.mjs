// Compares the edge's parser with llhttp:
//   node run.mjs --edge PARSE_TOOL [--seed N] [--count N] [-v]
//
// What both take has to be the same messages; what the edge takes and llhttp
// refuses fails but for the list below; what it would send on has to be one
// message to llhttp, too. What only the edge refuses is counted by reason.
import { spawn } from 'node:child_process';
import { Random, stream } from './generate.mjs';
import { knownMethods, strictParse } from './strict_parser.mjs';

const args = process.argv.slice(2);
// The last one counts, so that a test's own can be overridden.
const option = (name, fallback) => args.reduce((value, arg, i) => (arg === name ? args[i + 1] : arg.startsWith(`${name}=`) ? arg.slice(name.length + 1) : value), fallback);
const tool = option('--edge');
const seed = Number(option('--seed', Math.floor(Math.random() * 2 ** 32)));
const count = Number(option('--count', 30000));
console.log(`--seed ${seed} --count ${count}; llhttp ${process.versions.llhttp}`);

const hasFraming = (message) => message?.trailers.some((name, i) => i % 2 === 0 && /^(content-length|transfer-encoding|connection|proxy-connection)$/i.test(name));

// What is valid, and refused by llhttp. Each says why it does no harm.
const EXCUSED = [
  ['an extension method, which llhttp does not know', (text, error) => /INVALID_METHOD/.test(error)],
  ['a minor version from 2 to 9, which is forwarded as 1', (text, error) => /INVALID_VERSION/.test(error) && /HTTP\/1\.[2-9][ \r]/.test(text)],
  ['framing in a trailer, which is dropped', (text, error, last, next) => (/INVALID_(TRANSFER_ENCODING|CONTENT_LENGTH)/.test(error) && hasFraming(next)) ||
    (/CLOSED_CONNECTION/.test(error) && hasFraming(last))],
  ['white space around chunk extensions, which are never forwarded', (text, error) => /INVALID_CHUNK_SIZE|STRICT/.test(error) && /[0-9a-f][ \t]*;|;[ \t]|[ \t]=|=[ \t]|[ \t];/i.test(text)],
  ['an escape or a high byte in the quoted value of an extension', (text, error) => /INVALID_CHUNK_SIZE|STRICT/.test(error) && /;[^\r\n]*="[^\r\n]*(\\|[\x80-\xff])/.test(text)],
];
// Where llhttp says that the connection ends, and the edge that it goes on:
// llhttp begins anew behind the message.
const ENDS = [
  ['Proxy-Connection, which means nothing', (text) => /proxy-connection:/i.test(text)],
  ['an interim response that says close, and is not the last', (text, kind) => kind !== 'Q' && /HTTP\/1\.[01] 1/.test(text)],
  ['a response to HEAD, which ends with its head', (text, kind) => kind === 'H'],
];
// llhttp before 9 takes framing from trailers, and the length of a response that
// has no body for a part of the next one's.
const OLD = Number(process.versions.llhttp.split('.')[0]) < 9;
const MEANING = {
  field: 'different fields', body: 'different bodies', end: 'different boundaries', more: 'llhttp finds more messages',
};

// Frames to the tool, lines back.
const child = spawn(tool, [], { stdio: ['pipe', 'pipe', 'inherit'] });
let pending = '';
const answers = [];
let wake = () => {};
child.stdout.setEncoding('latin1');
child.stdout.on('data', (text) => {
  const lines = (pending + text).split('\n');
  pending = lines.pop();
  for (const line of lines) answers.push(JSON.parse(line));
  wake();
});
child.on('exit', (code, signal) => {
  if (code === 0) return;
  console.log(`FAIL  the tool ended: ${signal ?? code}`);
  process.exit(1);
});
function send(kind, split, text) {
  const bytes = Buffer.from(text, 'latin1');
  const header = Buffer.alloc(9);
  header.write(kind, 'latin1');
  header.writeUInt32LE(split, 1);
  header.writeUInt32LE(bytes.length, 5);
  child.stdin.write(header);
  child.stdin.write(bytes);
}
async function answer() {
  while (answers.length === 0) await new Promise((resolve) => (wake = resolve));
  return answers.shift();
}

const tally = { agreed: 0, messages: 0, excused: new Map(), refused: new Map() };
const add = (map, key) => map.set(key, (map.get(key) ?? 0) + 1);
let failures = 0;
function fail(kind, text, why) {
  if (++failures > 10) return;
  console.log(`FAIL  ${why}\n      ${kind} ${JSON.stringify(text)}`);
}

// One forwarded message; its method is replaced where llhttp knows none such.
function checkForwarded(kind, bytes, whole, text) {
  if (bytes === '') return;
  let sent = bytes;
  if (kind === 'Q' && !knownMethods.has(sent.slice(0, sent.indexOf(' ')))) sent = `POST${sent.slice(sent.indexOf(' '))}`;
  const theirs = strictParse(kind, Buffer.from(sent, 'latin1'));
  const one = theirs.messages.length === 1 && theirs.messages[0].end === sent.length && theirs.verdict !== 'error';
  const none = theirs.messages.length === 0 && theirs.verdict === 'incomplete';
  if (whole ? !one : !none) {
    fail(kind, text, `what would be sent on is not one message: ${theirs.messages.length}, ${theirs.verdict} ${theirs.error}: ${JSON.stringify(bytes)}`);
  }
}

function readTheirs(kind, text, ours) {
  const bytes = Buffer.from(text, 'latin1');
  const messages = [];
  for (let base = 0; ;) {
    const { messages: more, verdict, error } = strictParse(kind, bytes.subarray(base));
    for (const message of more) messages.push({ ...message, end: base + message.end });
    const ended = verdict === 'close' || /CLOSED_CONNECTION/.test(error);
    const excuse = ended && more.length > 0 && ours.messages.length > messages.length && ENDS.find(([, applies]) => applies(text, kind));
    if (!excuse) return { messages, verdict, error };
    add(tally.excused, excuse[0]);
    base = messages.at(-1).end;
  }
}

function compare(kind, text, ours, theirs) {
  tally.messages += ours.messages.length;
  for (const message of ours.messages) checkForwarded(kind, message.forwarded, true, text);
  // Of a body that was found wrong later, the beginning may be gone already.
  checkForwarded(kind, ours.unfinished, false, text);

  if (OLD && (kind !== 'Q' || ours.messages.some(hasFraming))) return add(tally.excused, 'what an old llhttp gets wrong');

  // White space that belongs to no value (RFC 9110, 5.5), but does for llhttp,
  // which takes such a coding for another. Neither is sent on with it.
  if (/^(transfer-encoding|content-length):[^\r\n]*\t[ \t]*\r$/im.test(text)) return add(tally.excused, 'a tab behind a coding or a length');

  const both = Math.min(ours.messages.length, theirs.messages.length);
  for (let i = 0; i < both; ++i) {
    const [a, b] = [ours.messages[i], theirs.messages[i]];
    // The edge refuses it and closes.
    if (a.method === 'CONNECT' && b.method === 'CONNECT') return;
    const differ = a.end !== b.end ? 'end' : a.body !== b.body ? 'body'
      : a.method !== b.method || a.target !== b.target || a.status !== b.status ||
        JSON.stringify([a.fields, a.trailers]) !== JSON.stringify([b.fields, b.trailers]) ? 'field' : undefined;
    if (differ === undefined) continue;
    fail(kind, text, `${MEANING[differ]} of message ${i}: ${JSON.stringify({ ...a, forwarded: undefined })} and ${JSON.stringify(b)}`);
    return;
  }
  if (ours.messages.length > theirs.messages.length) {
    // Behind an upgrade llhttp says nothing; one with a body is none to the
    // edge, which takes the field off.
    if (theirs.verdict === 'upgrade') return;
    const excuse = EXCUSED.find(([, applies]) =>
      applies(text, theirs.error, ours.messages[theirs.messages.length - 1], ours.messages[theirs.messages.length]));
    if (excuse !== undefined) return add(tally.excused, excuse[0]);
    return fail(kind, text, `taken by the edge, but for llhttp it is ${theirs.verdict} ${theirs.error} after ${theirs.messages.length}`);
  }
  if (ours.verdict === 'error') {
    if (theirs.messages.length > ours.messages.length || theirs.verdict !== 'error') return add(tally.refused, ours.error);
  } else if (theirs.messages.length > ours.messages.length && ours.verdict !== 'close' && ours.verdict !== 'upgrade') {
    return fail(kind, text, `${MEANING.more}: the edge says ${ours.verdict} after ${ours.messages.length}`);
  }
  ++tally.agreed;
}

const random = new Random(seed);
const BATCH = 100;
for (let i = 0; i < count; i += BATCH) {
  const batch = [];
  for (let j = i; j < Math.min(count, i + BATCH); ++j) {
    const kind = random.pick(['Q', 'Q', 'R', 'H']);
    const text = stream(random, kind);
    batch.push([kind, text]);
    send(kind, random.next(), text);
  }
  for (const [kind, text] of batch) {
    const ours = await answer();
    compare(kind, text, ours, readTheirs(kind, text, ours));
  }
}
child.stdin.end();

const show = (map) => [...map].sort((a, b) => b[1] - a[1]).map(([key, n]) => `      ${String(n).padStart(6)}  ${key}`).join('\n');
console.log(`${count} streams, ${tally.messages} messages taken; the same verdict on ${tally.agreed}`);
console.log(`refused by the edge alone, by reason:\n${show(tally.refused)}`);
console.log(`refused by llhttp alone, or taken for the end:\n${show(tally.excused)}`);
if (failures > 0) console.log(`${failures} failures; to repeat: --seed ${seed} --count ${count}`);
process.exit(failures === 0 && tally.messages > 0 && tally.agreed > 0 ? 0 : 1);
