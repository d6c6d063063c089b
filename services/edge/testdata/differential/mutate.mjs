// The wire cases with a byte changed, against a real edge:
//   node mutate.mjs --edge EDGE [--seed N] [--rounds N]
//
// Whatever a client sends, each request that reaches the origin is one that the
// edge took, said so in its log, and gave an id of its own; and whatever an
// origin answers, what the client gets is HTTP to llhttp, and never more
// responses than there were requests. One round is one change of each case, in
// each direction; a thousand rounds take a few minutes.
import { C } from '../http/cases.mjs';
import { client, origin, startEdge, until } from '../scenarios/harness.mjs';
import { mutate, Random } from './generate.mjs';
import { knownMethods, StrictStream } from './strict_parser.mjs';

const args = process.argv.slice(2);
// The last one counts, so that a test's own can be overridden.
const option = (name, fallback) => args.reduce((value, arg, i) => (arg === name ? args[i + 1] : arg.startsWith(`${name}=`) ? arg.slice(name.length + 1) : value), fallback);
const seed = Number(option('--seed', Math.floor(Math.random() * 2 ** 32)));
const rounds = Number(option('--rounds', 20));
const PARALLEL = 24;
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
console.log(`--seed ${seed} --rounds ${rounds}`);

let failures = 0;
function fail(what) {
  if (++failures <= 10) console.log(`FAIL  ${what}`);
}

const forwarded = []; // The X-Request-Id of each request that the origin saw.
let answers = () => OK;

// An origin that reads with llhttp, and answers what is a request to it.
const recorder = await origin((c, text) => {
  // What comes after the end is not read; the edge may send that again.
  if (c.over) return;
  if (c.stream === undefined) {
    c.stream = new StrictStream('Q');
    c.pending = '';
  }
  // A method of its own would be the end of it; see knownMethods.
  const seen = c.stream.messages.length;
  if (!c.stream.started) {
    c.pending += text;
    if (!/[ \r\n]/.test(c.pending)) return;
    text = c.pending;
    c.pending = '';
    const space = text.indexOf(' ');
    if (/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(text.slice(0, space)) && !knownMethods.has(text.slice(0, space))) {
      text = `POST${text.slice(space)}`;
    }
  }
  c.stream.feed(Buffer.from(text, 'latin1'));
  for (const message of c.stream.messages.slice(seen)) {
    const ids = [];
    for (let i = 0; i < message.fields.length; i += 2) {
      if (message.fields[i].toLowerCase() === 'x-request-id') ids.push(message.fields[i + 1]);
    }
    if (ids.length !== 1) fail(`a request with ${ids.length} ids reached the origin: ${JSON.stringify(c.all.slice(-600))}`);
    forwarded.push(...ids);
    const answer = answers(message);
    c.socket.write(Buffer.from(answer.text, 'latin1'));
    if (answer.close || message.upgrade) {
      c.over = true;
      c.socket.end();
    }
  }
  if (c.stream.verdict === 'error') {
    fail(`the origin got what llhttp refuses (${c.stream.error}): ${JSON.stringify(c.all.slice(-600))}`);
    c.socket.destroy();
  }
});

// Everything fails fast: clients close their sending side at once, and
// responses that never end are cut.
const edge = await startEdge(option('--edge'), { app: [recorder.url] }, [
  '--half_close_timeout_ms=300', '--response_header_timeout_ms=5000', '--body_idle_timeout_ms=5000', '--stream_idle_timeout_ms=400',
  '--expect_timeout_ms=50', '--linger_timeout_ms=200', '--eject_after_failures=1000000',
]);

// Runs `play` for each of `jobs`, some at a time.
async function forEach(jobs, play) {
  let next = 0;
  await Promise.all(Array.from({ length: PARALLEL }, async () => {
    while (next < jobs.length) await play(jobs[next++]);
  }));
}

// Sends `text` and closes; all that came back.
async function exchange(text, cut) {
  const c = await client(edge);
  if (cut > 0) {
    c.write(text.slice(0, cut));
    await new Promise((resolve) => setImmediate(resolve));
  }
  c.write(text.slice(cut));
  c.socket.end();
  await until(() => c.ended || c.closed, `the end of the connection that sent ${JSON.stringify(text.slice(0, 400))}`, 10000)
    .catch((error) => fail(error.message));
  c.socket.destroy();
  return c.got;
}

function checkResponses(sent, got) {
  const stream = new StrictStream('R');
  stream.feed(Buffer.from(got, 'latin1'));
  stream.finish();
  if (stream.verdict === 'error') {
    fail(`the client got what llhttp refuses (${stream.error}): ${JSON.stringify(got)} for ${JSON.stringify(sent)}`);
  }
  return stream.messages.filter((m) => m.status >= 200 || m.status === 101).length;
}

const random = new Random(seed);

// Hostile clients.
const cases = C.map((c) => c.S.filter((s) => s !== 'WAIT' && s !== 'FIN').join('')).filter((s) => s.length < 4000);
const requests = [];
for (let i = 0; i < rounds; ++i) for (const text of cases) requests.push([mutate(random, text), random.below(3) === 0 ? random.below(text.length) : 0]);
answers = () => ({ text: OK });
await forEach(requests, async ([text, cut]) => {
  const got = await exchange(text, cut);
  // What follows HEAD has no body, which a client has to know to read on.
  if (!/HEAD /.test(text)) checkResponses(text, got);
});

// Hostile origins: each answer once, to a request that says which.
const responses = [];
for (let i = 0; i < rounds; ++i) {
  for (const c of C) {
    for (const text of c.U) if (text.length < 4000) responses.push(mutate(random, text));
  }
}
answers = (message) => ({ text: responses[Number(/n=(\d+)/.exec(message.target)[1])], close: true });
await forEach(responses.map((_, i) => i), async (i) => {
  const upgrade = i % 2 === 0 ? 'Connection: upgrade\r\nUpgrade: websocket, foo\r\n' : '';
  const sent = `GET /app/?n=${i} HTTP/1.1\r\nHost: e.test\r\n${upgrade}\r\n`;
  const got = await exchange(sent, 0);
  const finals = checkResponses(`${sent} answered ${responses[i]}`, got);
  if (finals > 1) fail(`${finals} responses to one request: ${JSON.stringify(got)}, the origin sent ${JSON.stringify(responses[i])}`);
});

// T46: a thousand requests on one connection, cut anywhere.
const want = [];
let pipeline = '';
for (let i = 0; i < 1000; ++i) {
  const body = random.pick(['', 'hello', `GET /app/EVIL HTTP/1.1\r\nHost: e\r\n\r\n`, '0\r\n\r\n', 'x'.repeat(random.below(300))]);
  want.push(body);
  const size = 1 + random.below(20);
  const chunks = body.match(new RegExp(`[^]{1,${size}}`, 'g')) ?? [];
  const coded = `${chunks.map((c) => `${c.length.toString(16)};n="${i}"\r\n${c}\r\n`).join('')}0\r\nX-T: ${i}\r\n\r\n`;
  pipeline += random.pick([
    `POST /app/?i=${i} HTTP/1.1\r\nHost: e\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    `PUT /app/?i=${i} HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n${coded}`,
    `GET http://e.test/app/?i=${i} HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n${coded}`,
  ]);
}
const bodies = [];
answers = (message) => {
  const i = Number(/i=(\d+)/.exec(message.target)?.[1]);
  if (i !== bodies.length) fail(`request ${message.target} came as number ${bodies.length}`);
  bodies.push(message.body);
  return { text: `HTTP/1.1 200 OK\r\nX-I: ${i}\r\nContent-Length: 2\r\n\r\nok` };
};
{
  const c = await client(edge);
  for (let at = 0; at < pipeline.length;) {
    const size = 1 + random.below(random.pick([2, 30, 1000]));
    c.write(pipeline.slice(at, at + size));
    at += size;
    if (random.chance(80)) await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => c.statuses().length >= want.length || c.closed, 'the answers to a long pipeline', 30000).catch((error) => fail(error.message));
  checkResponses('the pipeline', c.got);
  const order = [...c.got.matchAll(/^X-I: (\d+)\r$/gm)].map((m) => Number(m[1]));
  if (order.length !== want.length || order.some((n, i) => n !== i)) fail(`${order.length} responses to the pipeline, or out of order`);
  if (JSON.stringify(bodies) !== JSON.stringify(want)) fail('the bodies of the pipeline are not those that were sent');
  c.socket.destroy();
}

// Each that was forwarded is one that the log has, with as many attempts.
if (new Set(forwarded).size !== forwarded.length) {
  // Only a retry may repeat an id, and nothing here is a reason for one.
  const seen = new Set();
  for (const id of forwarded) {
    if (seen.has(id)) fail(`two requests reached the origin as ${id}`);
    seen.add(id);
  }
}
const logged = await until(() => {
  const attempts = new Map(edge.lines().map((line) => [line.request_id, line.attempts]));
  return forwarded.every((id) => attempts.has(id)) ? attempts : undefined;
}, 'all forwarded requests in the log').catch((error) => fail(error.message));
for (const id of logged === undefined ? [] : forwarded) {
  if (!(logged.get(id) >= 1)) fail(`the request ${id} reached the origin, and the log has no attempt of it`);
}
console.log(`${requests.length} changed requests, ${responses.length} changed responses; ${forwarded.length} requests forwarded`);
if (forwarded.length === 0) fail('nothing was forwarded');
if (edge.exit !== null) fail(`the edge ended: ${edge.exit} ${edge.stderr}`);
await edge.stop();
recorder.close();
if (failures > 0) console.log(`${failures} failures; to repeat: --seed ${seed} --rounds ${rounds}`);
process.exit(failures === 0 ? 0 : 1);
