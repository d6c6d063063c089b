// What must hold over time, and for clients and origins that mean harm: each
// scenario runs against an edge of its own with short timeouts.
import fs from 'node:fs';
import net from 'node:net';
import { execFileSync } from 'node:child_process';
import {
  OK, answering, ask, check, client, equal, get, origin, post, reasonOf, sleep, startEdge,
  statusOf, until,
} from './harness.mjs';

export const scenarios = [];
const scenario = (name, play) => scenarios.push([name, play]);

// An edge before `endpoints`, stopped with the scenario.
export async function edgeFor(t, endpoints, ...flags) {
  const edge = await startEdge(t.binary, endpoints, flags);
  t.cleanup(() => edge.stop());
  return edge;
}
export async function originFor(t, started) {
  const o = await started;
  t.cleanup(() => o.close());
  return o;
}
async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// Timeouts of clients.

scenario('T01 a client that sends nothing is closed without a byte', async (t) => {
  const edge = await edgeFor(t, { app: [] }, '--header_timeout_ms=200');
  const c = await client(edge);
  await c.untilEnd(1500);
  equal(c.got, '');
});

scenario('T02 a slow head is refused when its time is up, counted from its first byte', async (t) => {
  const edge = await edgeFor(t, { app: [] }, '--header_timeout_ms=400');
  const c = await client(edge);
  const start = Date.now();
  for (const byte of get()) {
    if (c.ended) break;
    c.write(byte);
    await sleep(50);
  }
  await c.untilEnd(1500);
  equal(c.statuses(), [408]);
  check(Date.now() - start < 1200, `took ${Date.now() - start} ms`);
  equal((await edge.line((l) => l.status === 408)).end, 'client.header_timeout');
});

scenario('T03 a body that stops is refused and its origin connection is not used again', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] }, '--body_idle_timeout_ms=200');
  const c = await client(edge);
  c.write(post('Content-Length: 10\r\n', 'x'));
  await c.untilEnd(2000);
  equal(c.statuses(), [408]);
  await until(() => o.connections[0].ended || o.connections[0].closed, 'the origin to see the end');
});

scenario('T04 an idle connection is closed after its time', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--idle_timeout_ms=200');
  const c = await client(edge);
  c.write(get());
  await c.until(/ok$/);
  const start = Date.now();
  await c.untilEnd(1500);
  check(Date.now() - start >= 150, 'too early');
});

// Timeouts of origins.

scenario('T05 an origin that never answers is 504 and is disconnected', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] }, '--response_header_timeout_ms=200');
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got)], [504, 'response_timeout']);
  await until(() => o.connections[0].ended || o.connections[0].closed, 'the connection to end');
  equal(await edge.metric('mycelium_edge_endpoint_in_flight'), 0, 'in flight');
});

scenario('T05b a head that trickles in does not prolong its time', async (t) => {
  const o = await originFor(t, origin(async (c) => {
    for (const byte of 'HTTP/1.1 200 OK\r\nX-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaa') {
      c.socket.write(byte);
      await sleep(40);
    }
  }));
  const edge = await edgeFor(t, { app: [o.url] }, '--response_header_timeout_ms=300');
  const start = Date.now();
  equal(statusOf(await ask(edge, get())), 504);
  check(Date.now() - start < 1000, 'too late');
});

scenario('T06 a response that stops half-way ends without looking whole', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello'));
  const edge = await edgeFor(t, { app: [o.url] }, '--body_idle_timeout_ms=200');
  const c = await client(edge);
  c.write(get());
  await c.untilEnd(2000);
  check(c.got.endsWith('\r\n\r\nhello'), c.got);
  equal((await edge.line((l) => l.app === 'app')).end, 'origin.body_timeout');
});

scenario('T06b a chunked response cut short has no last chunk', async (t) => {
  const o = await originFor(t, origin((c) => {
    c.socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n');
    setTimeout(() => c.socket.destroy(), 50);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get());
  await c.untilEnd();
  check(/5\r\nhello/.test(c.got) && !/\r\n0\r\n/.test(c.got), c.got);
});

scenario('T06c a response without a length that is reset is reset for a 1.0 client too', async (t) => {
  const o = await originFor(t, origin((c) => {
    c.socket.write('HTTP/1.1 200 OK\r\n\r\nhello');
    setTimeout(() => c.socket.resetAndDestroy(), 100);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write('GET /app/x HTTP/1.0\r\n\r\n');
  await until(() => c.closed || c.ended, 'the end');
  await sleep(50);
  check(c.reset, 'an orderly end would pass for the whole');
});

scenario('a response without a length becomes chunked for a 1.1 client', async (t) => {
  const o = await originFor(t, origin((c) => c.socket.end('HTTP/1.1 200 OK\r\n\r\nhello')));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get());
  await c.until(/Transfer-Encoding: chunked[^]*\r\n5\r\nhello\r\n0\r\n\r\n$/);
  check(!c.ended, 'closed');
});

// Retries.

scenario('T07 T08 a refused connection is tried elsewhere, whatever the method', async (t) => {
  const o = await originFor(t, answering(OK));
  const dead = `http://127.0.0.1:${await freePort()}`;
  const edge = await edgeFor(t, { app: [dead, o.url] });
  for (const request of [get(), get(), post('Content-Length: 2\r\n', 'hi'),
    post('Transfer-Encoding: chunked\r\n', '2\r\nhi\r\n0\r\n\r\n')]) {
    equal(statusOf(await ask(edge, request)), 200, request);
  }
  check((await edge.metric('mycelium_edge_retries_total')) >= 1, 'no retry was counted');
});

scenario('T08b a body that comes after the retry arrives whole', async (t) => {
  const o = await originFor(t, origin((c) => {
    if (/wor.*ld$/.test(c.all)) c.socket.write(OK);
  }));
  const dead = `http://127.0.0.1:${await freePort()}`;
  const edge = await edgeFor(t, { app: [dead, o.url] });
  for (let i = 0; i < 2; ++i) {
    const c = await client(edge);
    c.write(post('Content-Length: 11\r\n', 'hello wor'));
    await sleep(50);
    c.write('ld');
    await c.until(/ok$/);
    c.socket.destroy();
  }
  check(o.all.includes('\r\n\r\nhello world'), o.all);
});

scenario('T09 a request that was sent on a fresh connection is delivered once', async (t) => {
  const o = await originFor(t, origin((c) => c.socket.end()));
  const edge = await edgeFor(t, { app: [o.url] });
  const got = await ask(edge, post('Content-Length: 2\r\n', 'hi'));
  equal([statusOf(got), reasonOf(got)], [502, 'upstream_closed']);
  equal(o.requests(), 1, 'deliveries');
});

// Answers the first request of each connection and closes at the second.
const closesAtTheSecond = () => origin((c, text) => {
  c.seen = (c.seen ?? 0) + 1;
  if (c.seen === 1) c.socket.write(OK);
  else c.socket.destroy();
});

scenario('T10 a GET that loses the race with a closing connection is sent again', async (t) => {
  const o = await originFor(t, closesAtTheSecond());
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  for (let i = 1; i <= 4; ++i) {
    c.write(get());
    await until(() => c.statuses().length === i, `response ${i}`);
  }
  equal(c.statuses(), [200, 200, 200, 200]);
  equal(await edge.metric('mycelium_edge_retries_total'), 0, 'counted retries');
});

scenario('T11 a POST that loses that race is not sent again', async (t) => {
  const o = await originFor(t, closesAtTheSecond());
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get());
  await c.until(/ok$/);
  c.write(post('Content-Length: 0\r\n'));
  await until(() => c.statuses().length === 2, 'an answer');
  equal(c.statuses(), [200, 502]);
  equal((o.all.match(/POST/g) ?? []).length, 1, 'deliveries');
});

scenario('T11b a POST does not meet a connection that was closed before it', async (t) => {
  const o = await originFor(t, origin((c) => {
    c.socket.write(OK);
    setTimeout(() => c.socket.end(), 30);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  for (let i = 1; i <= 5; ++i) {
    c.write(post('Content-Length: 2\r\n', 'hi'));
    await until(() => c.statuses().length === i, `response ${i}`);
    await sleep(60);
  }
  equal(c.statuses(), [200, 200, 200, 200, 200]);
});

scenario('T12 T13 an idle connection that ends or speaks is dropped', async (t) => {
  const o = await originFor(t, origin((c) => {
    c.socket.write(OK);
    if (c.number === 0) setTimeout(() => c.socket.end(), 20);
    if (c.number === 1) setTimeout(() => c.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL'), 20);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  for (let i = 1; i <= 3; ++i) {
    c.write(get());
    await until(() => c.statuses().length === i, `response ${i}`);
    await sleep(60);
  }
  equal(o.connections.length, 3, 'connections');
  check(!c.got.includes('EVIL'), 'the unasked response was delivered');
});

scenario('T14 T15 no endpoint that works: 502 and 503, in time, naming the app', async (t) => {
  const dead = async () => `http://127.0.0.1:${await freePort()}`;
  const edge = await edgeFor(t, { app: [await dead(), await dead()], none: [] });
  const refused = await ask(edge, get('/app/x', 'Accept: application/json\r\n'));
  equal([statusOf(refused), reasonOf(refused)], [502, 'connect_failed']);
  const body = JSON.parse(refused.slice(refused.indexOf('\r\n\r\n')));
  equal([body.app, body.status], ['app', 502]);
  check(!refused.includes('127.0.0.1'), 'the address is shown');
  const none = await ask(edge, get('/none/x'));
  equal([statusOf(none), reasonOf(none)], [503, 'no_endpoint']);
  check(/^retry-after: \d+\r$/im.test(none), none);
  const unknown = await ask(edge, get('/nobody/x'));
  equal([statusOf(unknown), reasonOf(unknown)], [404, 'unknown_app']);
});

scenario('a connection that cannot be made in time is 504', async (t) => {
  // A full backlog answers nothing.
  const server = net.createServer();
  await new Promise((resolve) => server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, resolve));
  t.cleanup(() => server.close());
  const edge = await edgeFor(t, { app: ['http://192.0.2.1:9'] }, '--connect_timeout_ms=200');
  const start = Date.now();
  const got = await ask(edge, get());
  check([502, 504].includes(statusOf(got)), got);
  check(Date.now() - start < 2000, 'too late');
});

// Endpoints that fail.

scenario('T24 T25 an endpoint that fails in a row is left out, but never the last', async (t) => {
  const good = await originFor(t, answering(OK));
  const bad = await originFor(t, answering('HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n'));
  const edge = await edgeFor(t, { app: [good.url, bad.url], alone: [bad.url] });
  const count = { 200: 0, 500: 0 };
  for (let i = 0; i < 40; ++i) ++count[statusOf(await ask(edge, get()))];
  equal(count, { 200: 35, 500: 5 });
  for (let i = 0; i < 12; ++i) equal(statusOf(await ask(edge, get('/alone/'))), 500);
  const page = await ask(edge, get('/_mesh/metrics'));
  equal(/^mycelium_edge_endpoint_ejections_total\{[^}]*"static-app-1"[^}]*\} (\d+)$/m.exec(page)?.[1], '1', 'ejections');
});

scenario('T25b when every endpoint fails, all get requests until one answers', async (t) => {
  let broken = true;
  const answer = () => (broken ? 'HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n' : OK);
  const origins = [];
  for (let i = 0; i < 4; ++i) origins.push(await originFor(t, answering(answer)));
  const edge = await edgeFor(t, { app: origins.map((o) => o.url) });
  for (let i = 0; i < 24; ++i) await ask(edge, get());
  equal(await edge.metric('mycelium_edge_panicking'), 1, 'panicking');
  const before = origins.map((o) => o.requests());
  for (let i = 0; i < 20; ++i) await ask(edge, get());
  equal(origins.map((o, i) => o.requests() - before[i]), [5, 5, 5, 5]);
  broken = false;
  for (let i = 0; i < 10; ++i) equal(statusOf(await ask(edge, get())), 200);
  equal(await edge.metric('mycelium_edge_panicking'), 0, 'panicking');
  equal(await edge.metric('mycelium_edge_panics_total'), 1, 'panics');
});

scenario('balancing is chosen per app', async (t) => {
  const hanging = (c) => (/ \/wait /.test(c.all) ? '' : OK);
  const a = await originFor(t, answering(hanging));
  const b = await originFor(t, answering(hanging));
  const edge = await edgeFor(t, { least: [a.url, b.url], turns: [a.url, b.url] },
    '--static_traffic=least={"balancing":"BALANCING_LEAST_REQUEST"}');
  const c = await client(edge);
  c.write(get('/least/wait'));
  await until(() => a.requests() + b.requests() === 1, 'the request');
  const [busy, free] = a.requests() ? [a, b] : [b, a];
  for (let i = 0; i < 20; ++i) equal(statusOf(await ask(edge, get('/least/'))), 200);
  equal([busy.requests(), free.requests()], [1, 20]);
  for (let i = 0; i < 20; ++i) equal(statusOf(await ask(edge, get('/turns/'))), 200);
  equal([busy.requests(), free.requests()], [11, 30]);
});

// Answers of endpoints that another one may do better.

const BUSY = 'HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy';
const RETRY = '--static_traffic=app={"retryServerErrors":true}';

scenario('T27 a GET that an endpoint answers 503 is sent to another one, a POST is not', async (t) => {
  const bad = await originFor(t, answering(BUSY));
  const good = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [bad.url, good.url] }, RETRY, '--eject_after_failures=1000');
  for (let i = 0; i < 6; ++i) {
    const got = await ask(edge, get());
    equal(statusOf(got), 200);
    check(!got.includes('usy'), got);
  }
  equal(bad.requests(), 3, 'requests to the one that fails');
  equal(await edge.metric('mycelium_edge_retries_total'), 3, 'retries');
  equal(bad.connections.length, 1, 'a short answer leaves its connection in use');
  const posts = [];
  for (let i = 0; i < 4; ++i) posts.push(statusOf(await ask(edge, post('Content-Length: 2\r\n', 'hi'))));
  equal(posts.sort(), [200, 200, 503, 503]);
});

scenario('T27 a HEAD that an endpoint answers 504 is sent to another one', async (t) => {
  const bad = await originFor(t, answering('HTTP/1.1 504 Slow\r\nContent-Length: 4\r\n\r\n'));
  const good = await originFor(t, answering('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n'));
  const edge = await edgeFor(t, { app: [bad.url, good.url] }, RETRY);
  const c = await client(edge);
  for (let i = 1; i <= 4; ++i) {
    c.write(get().replace('GET', 'HEAD'));
    await until(() => c.statuses().length === i, 'an answer');
  }
  equal(c.statuses(), [200, 200, 200, 200]);
  equal([bad.requests(), bad.connections.length], [2, 1]);
});

scenario('T27b without the policy a 503 is passed on', async (t) => {
  const o = await originFor(t, answering(BUSY));
  const other = await originFor(t, answering(BUSY));
  const edge = await edgeFor(t, { app: [o.url, other.url] });
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got), o.requests() + other.requests()], [503, undefined, 1]);
});

scenario('T27c the last answer is passed on when every endpoint is asked in vain', async (t) => {
  const origins = [];
  for (let i = 0; i < 4; ++i) origins.push(await originFor(t, answering(BUSY)));
  const edge = await edgeFor(t, { app: origins.map((o) => o.url), pair: origins.slice(0, 2).map((o) => o.url) },
    `${RETRY};pair={"retryServerErrors":true}`, '--eject_after_failures=1000');
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got)], [503, undefined]);
  check(got.endsWith('\r\n\r\nbusy'), got);
  equal(origins.map((o) => o.requests()).sort(), [0, 1, 1, 1], 'two retries, each elsewhere');
  await ask(edge, get('/pair/'));
  equal(origins.map((o) => o.requests()).reduce((a, b) => a + b), 5, 'none is asked twice');
});

scenario('T27d a refused answer of any length is dropped with its connection', async (t) => {
  const bad = await originFor(t, answering('HTTP/1.1 502 Bad\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nnever\r\n'));
  const good = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [bad.url, good.url] }, RETRY, '--eject_after_failures=1000');
  const c = await client(edge);
  for (let i = 1; i <= 4; ++i) {
    c.write(get());
    await until(() => c.statuses().length === i, 'an answer');
  }
  equal(c.statuses(), [200, 200, 200, 200]);
  check(!c.got.includes('never'), c.got);
  await until(() => bad.connections.length === 2 && bad.connections.every((b) => b.ended || b.closed), 'the ends');
});

scenario('T27e after an interim response nothing is sent again', async (t) => {
  const early = `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${BUSY}`;
  const a = await originFor(t, answering(early));
  const b = await originFor(t, answering(early));
  const edge = await edgeFor(t, { app: [a.url, b.url] }, RETRY);
  const c = await client(edge);
  c.write(get());
  await c.until(/busy$/);
  equal(c.statuses(), [103, 503]);
  equal(a.requests() + b.requests(), 1);
});

scenario('T27f a storm of retries stays within its budget', async (t) => {
  // Every request waits until all have arrived, and every retry until it is let
  // go.
  const waiting = [];
  const origins = [];
  for (let i = 0; i < 3; ++i) {
    origins.push(await originFor(t, origin((c, text) => {
      for (let n = text.split('\r\n\r\n').length - 1; n > 0; --n) waiting.push(c);
    })));
  }
  const edge = await edgeFor(t, { app: origins.map((o) => o.url) }, RETRY, '--eject_after_failures=1000');
  const clients = [];
  for (let i = 0; i < 40; ++i) {
    clients.push(await client(edge));
    clients[i].write(get());
  }
  await until(() => waiting.length === 40, '40 requests');
  for (const c of waiting.splice(0)) c.socket.write(BUSY);
  const answered = () => clients.filter((c) => c.statuses().length).length;
  await until(() => answered() + waiting.length === 40, 'answers or retries');
  check(waiting.length >= 3 && waiting.length <= 8, `${waiting.length} retries of 40 requests`);
  while (answered() < 40) {
    for (const c of waiting.splice(0)) c.socket.write(BUSY);
    await sleep(5);
  }
  for (const c of clients) equal(c.statuses(), [503]);
  check((await edge.metric('mycelium_edge_retries_total')) <= 16, 'two retries for each of eight');
});


// Clients and origins that go.

scenario('T30 when the client goes, the origin sees the end of the connection', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] }, '--half_close_timeout_ms=200');
  const c = await client(edge);
  c.write(get());
  await until(() => o.requests() === 1, 'the request');
  c.socket.destroy();
  await until(() => o.connections[0].ended || o.connections[0].closed, 'the end', 2000);
  equal((await edge.line((l) => l.status === 499)).end, 'client.disconnected');
});

scenario('T30b a client that only closed its sending side gets its response', async (t) => {
  const o = await originFor(t, origin((c) => setTimeout(() => c.socket.write(OK), 100)));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.socket.end(get());
  await c.until(/ok$/);
});

scenario('T30c a body that the client cuts short is never completed', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const request of [post('Content-Length: 10\r\n', 'hello'),
    post('Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n')]) {
    const c = await client(edge);
    c.socket.end(request);
    await c.untilEnd();
  }
  await until(() => o.connections.length === 2 && o.connections.every((c) => c.ended || c.closed), 'two ends');
  check(!o.all.includes('0\r\n\r\n'), 'a last chunk was made up');
});

// Streams.

const GIB = 1 << 30;

scenario('T31 a client that reads slowly costs bounded memory', async (t) => {
  const chunk = Buffer.alloc(1 << 16, 'x');
  const o = await originFor(t, origin((c) => {
    c.socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${GIB}\r\n\r\n`);
    const more = () => { while (!c.socket.destroyed && c.socket.write(chunk)); };
    c.socket.on('drain', more);
    more();
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const before = edge.rss();
  const c = await client(edge);
  c.socket.pause();
  c.write(get());
  await sleep(1000);
  check(edge.rss() - before < 4096, `RSS grew by ${edge.rss() - before} KiB`);
  c.socket.destroy();
});

scenario('T32 an origin that reads slowly costs bounded memory', async (t) => {
  const o = await originFor(t, origin((c) => c.socket.pause()));
  const edge = await edgeFor(t, { app: [o.url] });
  const before = edge.rss();
  const c = await client(edge);
  const chunk = Buffer.alloc(1 << 16, 'x');
  c.write(post(`Content-Length: ${GIB}\r\n`));
  let sent = 0;
  while (sent < 64 << 20 && c.socket.write(chunk)) sent += chunk.length;
  for (let i = 0; i < 50; ++i) {
    await sleep(20);
    if (!c.socket.writableNeedDrain) c.socket.write(chunk);
  }
  check(edge.rss() - before < 4096, `RSS grew by ${edge.rss() - before} KiB`);
  c.socket.destroy();
});

scenario('a head and trailers with every other field cut out pass both ways', async (t) => {
  const fields = (n) => 'a:\r\nte:\r\n'.repeat(n);
  const message = `Transfer-Encoding: chunked\r\n${fields(48)}\r\n5\r\nhello\r\n0\r\n${fields(50)}\r\n`;
  const o = await originFor(t, origin((c) => {
    if (c.all.includes('\r\n0\r\n') && c.all.endsWith('\r\n\r\n')) {
      c.socket.write(`HTTP/1.1 200 OK\r\n${message}`);
    }
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(`POST /app/x HTTP/1.1\r\nHost: e.test\r\n${message}`);
  await c.until(/\r\n0\r\n[^]*\r\n\r\n$/);
  equal(c.statuses()[0], 200);
  check(!/^te:/im.test(o.all), 'te was forwarded');
  check(edge.exit === null, 'the edge has died');
});

scenario('uploads on a kept connection end, however they arrive', async (t) => {
  const size = 564000;
  let due = 0;
  const o = await originFor(t, origin((c) => {
    if (c.all.replace(/POST [^]*?\r\n\r\n/g, '').length === due) c.socket.write(OK);
  }));
  const edge = await edgeFor(t, { app: [o.url] }, '--workers=1');
  const c = await client(edge);
  for (let round = 1; round <= 8; ++round) {
    due = round * size;
    // What waits when the edge wakes is more than it takes in one turn.
    process.kill(edge.pid, 'SIGSTOP');
    c.write(post(`Content-Length: ${size}\r\n`, 'x'.repeat(size)));
    await sleep(20);
    process.kill(edge.pid, 'SIGCONT');
    await until(() => c.statuses().length === round, `answer ${round}`);
  }
});

scenario('T33 a chunked upload reaches the origin before it ends', async (t) => {
  const o = await originFor(t, origin((c) => { if (c.all.endsWith('0\r\n\r\n')) c.socket.write(OK); }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(post('Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n'));
  await until(() => o.all.includes('hello'), 'the first chunk');
  c.write('6\r\n world\r\n0\r\n\r\n');
  await c.until(/ok$/);
});

scenario('T34 each event of a stream comes at once', async (t) => {
  const o = await originFor(t, origin((c) => {
    c.socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n');
    let n = 0;
    const timer = setInterval(() => c.socket.write(`data: ${n++} ${Date.now()}\n\n`), 50);
    c.socket.on('close', () => clearInterval(timer));
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  const delays = [];
  c.socket.on('data', (data) => {
    for (const m of data.toString().matchAll(/data: \d+ (\d+)/g)) delays.push(Date.now() - Number(m[1]));
  });
  c.write(get());
  await until(() => delays.length >= 10, 'ten events');
  delays.sort((a, b) => a - b);
  check(delays[5] < 20, `median delay ${delays[5]} ms`);
  c.socket.destroy();
});

scenario('a large body arrives whole in both directions', async (t) => {
  const size = 5_000_003;
  const o = await originFor(t, origin((c) => {
    if (c.all.length - c.all.indexOf('\r\n\r\n') - 4 === size) {
      c.socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${size}\r\n\r\n`);
      c.socket.write(Buffer.from(c.all.slice(-size), 'latin1'));
    }
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const body = Buffer.alloc(size);
  for (let i = 0; i < size; ++i) body[i] = (i * 7 + (i >> 8)) & 0xff;
  const c = await client(edge);
  c.write(post(`Content-Length: ${size}\r\n`));
  c.socket.write(body);
  await until(() => c.got.length > size && c.got.length - c.got.indexOf('\r\n\r\n') - 4 === size, 'the echo', 20000);
  check(Buffer.from(c.got.slice(-size), 'latin1').equals(body), 'bytes differ');
  c.socket.destroy();
});

scenario('a large chunked body arrives whole in both directions', async (t) => {
  const chunks = [];
  for (let i = 1; i <= 300; ++i) chunks.push(String.fromCharCode(97 + (i % 26)).repeat((i * 37) % 5000 + 1));
  const coded = chunks.map((c) => `${c.length.toString(16)}\r\n${c}\r\n`).join('') + '0\r\n\r\n';
  const o = await originFor(t, origin((c) => {
    if (c.all.endsWith('\r\n0\r\n\r\n')) {
      c.socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${c.all.slice(c.all.indexOf('\r\n\r\n') + 4)}`);
    }
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  // Odd pieces, so that lines are cut everywhere.
  c.write(post('Transfer-Encoding: chunked\r\n'));
  for (let at = 0, n = 0; at < coded.length; ++n) {
    const size = [1, 2, 3, 5, 1000, 40000][n % 6];
    c.write(coded.slice(at, at + size));
    at += size;
    if (n % 50 === 0) await sleep(1);
  }
  await c.until(/\r\n0\r\n\r\n$/, 10000);
  equal(c.got.slice(c.got.indexOf('\r\n\r\n') + 4).length, coded.length, 'length');
  check(c.got.endsWith(coded), 'bytes differ');
});

// Limits.

scenario('T35 a body that is too long is refused without 100, the origin untouched', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--max_body_bytes=1000');
  const got = await ask(edge, post('Content-Length: 1001\r\nExpect: 100-continue\r\n'));
  equal(statusOf(got), 413);
  check(!got.includes(' 100 '), got);
  equal(o.connections.length, 0, 'origin connections');
});

scenario('T36 a chunked body that becomes too long is refused and its request aborted', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] }, '--max_body_bytes=1000');
  const c = await client(edge);
  c.write(post('Transfer-Encoding: chunked\r\n', `100\r\n${'x'.repeat(256)}\r\n`));
  await until(() => o.all.includes('xxx'), 'the first chunk');
  c.write(`400\r\n${'x'.repeat(1024)}\r\n0\r\n\r\n`);
  await c.untilEnd();
  equal(c.statuses(), [413]);
  await until(() => o.connections[0].ended || o.connections[0].closed, 'the end at the origin');
  check(!o.all.includes('\r\n0\r\n'), 'the request was completed');
});

scenario('T37 an early answer is delivered at once, however long the upload', async (t) => {
  const o = await originFor(t, origin((c) => {
    if (!c.done) c.socket.write('HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\nauth');
    c.done = true;
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(post(`Content-Length: ${GIB}\r\n`, 'x'.repeat(100_000)));
  await c.until(/^HTTP\/1\.1 401[^]*auth$/);
  check(/connection: close/i.test(c.got), c.got);
  for (let i = 0; i < 20 && !c.closed; ++i) c.write('x'.repeat(10_000));
  await c.untilEnd();
  equal(c.statuses(), [401]);
});

scenario('T37b an origin that answers and closes while the upload goes on', async (t) => {
  const o = await originFor(t, origin((c) => {
    if (!c.done) c.socket.end('HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
    c.done = true;
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(post('Content-Length: 100000000\r\n'));
  for (let i = 0; i < 50 && !c.ended; ++i) {
    c.write('x'.repeat(10_000));
    await sleep(2);
  }
  await c.untilEnd();
  equal(c.statuses(), [413]);
});

scenario('T45 out of descriptors the edge waits without spinning, and recovers', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  execFileSync('prlimit', [`--pid=${edge.pid}`, '--nofile=40:40']);
  const held = [];
  for (let i = 0; i < 60; ++i) held.push(await client(edge));
  await sleep(200);
  const before = edge.cpu();
  await sleep(500);
  check(edge.cpu() - before <= 5, `${edge.cpu() - before} ticks of CPU while paused`);
  for (const c of held) c.socket.destroy();
  await until(async () => statusOf(await ask(edge, get()).catch(() => '')) === 200, 'service again');
});

scenario('the head of a response may not be too long', async (t) => {
  const o = await originFor(t, answering(`HTTP/1.1 200 OK\r\nX-A: ${'a'.repeat(70000)}\r\nContent-Length: 0\r\n\r\n`));
  const edge = await edgeFor(t, { app: [o.url] });
  equal(statusOf(await ask(edge, get())), 502);
});

scenario('interim responses without end are 502', async (t) => {
  const o = await originFor(t, answering(`${'HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(200)}${OK}`));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get());
  await c.until(/HTTP\/1\.1 502/);
});

// Expect and interim responses.

scenario('an origin that owes a 100 does not keep the client waiting', async (t) => {
  const o = await originFor(t, origin((c) => { if (c.all.endsWith('hello')) c.socket.write(OK); }));
  const edge = await edgeFor(t, { app: [o.url] }, '--expect_timeout_ms=100');
  const c = await client(edge);
  c.write(post('Expect: 100-continue\r\nContent-Length: 5\r\n'));
  await c.until(/^HTTP\/1\.1 100 Continue\r\n\r\n$/);
  c.write('hello');
  await c.until(/ok$/);
  equal(c.statuses(), [100, 200]);
});

scenario('a 100 of the origin is passed on once', async (t) => {
  const o = await originFor(t, origin((c, text) => {
    if (text.includes('Expect')) c.socket.write('HTTP/1.1 100 Continue\r\n\r\n');
    if (c.all.endsWith('hello')) c.socket.write(OK);
  }));
  const edge = await edgeFor(t, { app: [o.url] }, '--expect_timeout_ms=300');
  const c = await client(edge);
  c.write(post('Expect: 100-continue\r\nContent-Length: 5\r\n'));
  await c.until(/100 Continue/);
  await sleep(400);
  c.write('hello');
  await c.until(/ok$/);
  equal(c.statuses(), [100, 200]);
});

scenario('a final answer instead of 100 closes, since the body may or may not come', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n'));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(post('Expect: 100-continue\r\nContent-Length: 5\r\n'));
  await c.untilEnd();
  equal(c.statuses(), [417]);
});

scenario('early hints come before the response', async (t) => {
  const o = await originFor(t, answering(`HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: y\r\n\r\n${OK}`));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get());
  await c.until(/^HTTP\/1\.1 103[^]*Link: <\/a>\r\n\r\nHTTP\/1\.1 200[^]*ok$/);
  check(!/^X: y/m.test(c.got), 'a hop-by-hop field passed');
});

// Tunnels.

const WS = 'Connection: Upgrade\r\nUpgrade: websocket\r\n';
const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n';
const echoTunnel = () => origin((c, text) => {
  if (c.switched) return c.socket.write(text, 'latin1');
  c.switched = true;
  c.socket.write(SWITCH);
});

scenario('T18 a tunnel carries bytes both ways, and its half-closes', async (t) => {
  const o = await originFor(t, echoTunnel());
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get('/app/ws', WS));
  await c.until(/101 Switching/);
  const blob = 'payload'.repeat(50_000);
  c.write(blob);
  await until(() => c.got.endsWith(blob), 'the echo');
  c.socket.end();
  await c.untilEnd();
  equal((await edge.line((l) => l.status === 101)).end, 'tunnel.closed');
});

scenario('T39 tunnels that idle hold no buffers', async (t) => {
  const o = await originFor(t, echoTunnel());
  const edge = await edgeFor(t, { app: [o.url] });
  const blob = 'payload!'.repeat(8_000);
  const open = async () => {
    const c = await client(edge);
    c.write(get('/app/ws', WS));
    await c.until(/101 Switching[^]*\r\n\r\n$/);
    c.write(blob);
    await until(() => c.got.endsWith(blob), 'the echo');
    c.got = '';
  };
  // Once for what every worker keeps anyway.
  for (let i = 0; i < 20; ++i) await open();
  const before = edge.rss();
  const tunnels = 400;
  for (let i = 0; i < tunnels; ++i) await open();
  // The state of a tunnel is about 13 KiB; a buffer would be 4 more at least.
  const each = (edge.rss() - before) / tunnels;
  check(each < 17, `${each} KiB for each idle tunnel`);
});

scenario('a tunnel that idles too long is closed', async (t) => {
  const o = await originFor(t, echoTunnel());
  const edge = await edgeFor(t, { app: [o.url] }, '--stream_idle_timeout_ms=200');
  const c = await client(edge);
  c.write(get('/app/ws', WS));
  await c.until(/101 Switching/);
  await c.untilEnd(2000);
  equal((await edge.line((l) => l.status === 101)).end, 'edge.tunnel_idle');
});

scenario('an upgrade to HTTP/2 or TLS is not passed on', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const protocol of ['h2c', 'H2C', 'HTTP/2.0', 'TLS/1.0', 'websocket, h2c']) {
    await ask(edge, get('/app/', `Connection: Upgrade, HTTP2-Settings\r\nUpgrade: ${protocol}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n`));
  }
  check(!/^(upgrade|http2-settings):/im.test(o.all), o.all);
});

scenario('a 101 for another protocol than asked is 502', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n'));
  const edge = await edgeFor(t, { app: [o.url] });
  equal(statusOf(await ask(edge, get('/app/', WS))), 502);
});

// Hostile origins: none of this may become a response, or a second one.

const HOSTILE = {
  'obs-fold': 'HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\nok',
  'bare LF': 'HTTP/1.1 200 OK\nContent-Length: 2\n\nok',
  'bare CR in a value': 'HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 2\r\n\r\nok',
  'NUL in a value': 'HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok',
  'space before the colon': 'HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok',
  'differing lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!',
  'length list': 'HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok',
  'negative length': 'HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok',
  'length and coding': 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  'unknown coding': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  'coding in HTTP/1.0': 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  'no status line': 'hello\r\n\r\n',
  'version 2': 'HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok',
  'status 099': 'HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok',
  'status 600': 'HTTP/1.1 600 High\r\nContent-Length: 2\r\n\r\nok',
  'no colon': 'HTTP/1.1 200 OK\r\nNonsense\r\nContent-Length: 2\r\n\r\nok',
  'too many fields': `HTTP/1.1 200 OK\r\n${'X-A: 1\r\n'.repeat(200)}Content-Length: 2\r\n\r\nok`,
  'bad chunk size': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n',
};
scenario('responses that break the rules are 502 and their connections closed', async (t) => {
  let response = '';
  const o = await originFor(t, answering(() => response));
  const edge = await edgeFor(t, { app: [o.url] }, '--eject_after_failures=1000');
  for (const [name, bytes] of Object.entries(HOSTILE)) {
    response = bytes;
    const connections = o.connections.length;
    const got = await ask(edge, get());
    equal(statusOf(got), 502, name);
    response = OK;
    equal(statusOf(await ask(edge, get())), 200, `after ${name}`);
    await until(() => o.connections[connections]?.ended || o.connections[connections]?.closed ||
      o.connections[connections - 1]?.ended || o.connections[connections - 1]?.closed, `${name}: the end`);
  }
});

scenario('a chunk that breaks the rules after the head ends the connection', async (t) => {
  const o = await originFor(t, origin((c) => {
    c.socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n');
    setTimeout(() => c.socket.write('-1\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL'), 50);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get() + get('/app/two'));
  await c.untilEnd();
  equal(c.statuses(), [200]);
  check(!c.got.includes('EVIL') && !/\r\n0\r\n/.test(c.got), c.got);
});

scenario('a 204 with a length has no body, and its connection is not used again', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 204 None\r\nContent-Length: 39\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get() + get());
  await until(() => c.statuses().length === 2, 'two responses');
  equal(c.statuses(), [204, 204]);
  check(!/content-length/i.test(c.got), c.got);
  equal(o.connections.length, 2, 'connections');
});

scenario('trailers pass as trailers in both directions, forbidden ones not', async (t) => {
  const coded = '5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil\r\n\r\n';
  const o = await originFor(t, origin((c) => {
    if (/\r\n0\r\n[^]*\r\n\r\n$/.test(c.all)) {
      c.socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n${coded}`);
    }
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(post('Transfer-Encoding: chunked\r\n', coded));
  await c.until(/hello\r\n0\r\nX-Sum: 1\r\n\r\n$/);
  check(/hello\r\n0\r\nX-Sum: 1\r\n\r\n$/.test(o.all), o.all);
  check(!/6\.6\.6\.6|evil/.test(o.all + c.got), 'a forbidden trailer passed');
});

// Hostile clients.

scenario('after a refused request nothing of its connection is read as another', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const bad of [
    post('Content-Length: 5\r\nContent-Length: 6\r\n', 'hello'),
    post('Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', '0\r\n\r\n'),
    post('Transfer-Encoding: chunked\r\n', '5 \r\nhello\r\n0\r\n\r\n'),
    'GET /app/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
    'GET /app/../x HTTP/1.1\r\nHost: a\r\n\r\n',
    'POST /app/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'GET /app/x HTTP/3.0\r\nHost: a\r\n\r\n',
  ]) {
    const c = await client(edge);
    c.write(bad + get('/app/EVIL'));
    await c.untilEnd();
    equal(c.statuses().length, 1, `responses to ${JSON.stringify(bad)}`);
    check([400, 505].includes(c.statuses()[0]), c.got);
    c.socket.destroy();
  }
  check(!o.all.includes('EVIL'), 'a second request was processed');
});

scenario('paths that two servers could read differently are refused', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const path of ['/app/..', '/app/../x', '/app/./x', '/app/a/..', '/app/%2e%2e/x', '/app/.%2E/x',
    '/app/a%2F..%2Fx', '/app/a\\..\\x', '/app/%5c..%5cx', '/app/%00', '/app/%zz', '/app/%2', '/../app/x']) {
    equal(statusOf(await ask(edge, get(path))), 400, path);
  }
  equal(o.connections.length, 0, 'origin connections');
  for (const [path, want] of [['/app//x', '//x'], ['/app/a%2Fb', '/a%2Fb'], ['/app/.../x', '/.../x'],
    ['/app/..a', '/..a'], ['/app/x?a=../b&c=%zz', '/x?a=../b&c=%zz'], ['/app/?q', '/?q'], ['/app/;p', '/;p']]) {
    equal(statusOf(await ask(edge, get(path))), 200, path);
    check(o.all.includes(`GET ${want} HTTP/1.1\r\n`), `${path} became ${o.all.split('\r\n').filter((l) => l.startsWith('GET')).pop()}`);
  }
});

scenario('what says where a request came from is the edge’s to say', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  await ask(edge, get('/app/x', [
    'X-Forwarded-For: 6.6.6.6', 'X-FORWARDED-PROTO: https', 'X-Forwarded-Host: evil', 'X-Forwarded-Port: 1',
    'X-Forwarded-Prefix: /evil', 'X_Forwarded_For: 6.6.6.6', 'X-Forwarded_For: 6.6.6.6', 'X-Real-IP: 6.6.6.6',
    'X_Real_IP: 6.6.6.6', 'Forwarded: for=6.6.6.6', 'X-Request-Id: evil', 'X_Request_Id: evil', 'Proxy: evil',
    'Content_Length: 5', 'Transfer_Encoding: chunked', 'X-Mycelium-Reason: evil', 'X-End: kept',
  ].join('\r\n') + '\r\n'));
  check(!/6\.6\.6\.6|evil|https|chunked|_/i.test(o.all), o.all);
  for (const line of [/^X-Forwarded-For: 127\.0\.0\.1\r$/m, /^X-Forwarded-Proto: http\r$/m,
    /^X-Forwarded-Host: e\.test\r$/m, new RegExp(`^X-Forwarded-Port: ${edge.port}\\r$`, 'm'),
    /^X-Forwarded-Prefix: \/app\r$/m, /^X-Request-Id: [0-9a-f]{32}\r$/m, /^X-End: kept\r$/m, /^Via: 1\.1 \S+\r$/m]) {
    equal((o.all.match(new RegExp(line.source, 'gm')) ?? []).length, 1, String(line));
  }
});

scenario('T41 a trusted peer is believed and added to', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--trusted_proxies=127.0.0.0/8');
  await ask(edge, get('/app/x', 'X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: out.test\r\nX-Forwarded-Prefix: /outer\r\nX-Request-Id: keep-me\r\n'));
  const lines = o.all.split('\r\n');
  equal(lines.filter((l) => /^x-forwarded-for/i.test(l)), ['X-Forwarded-For: 1.2.3.4', 'X-Forwarded-For: 127.0.0.1']);
  equal(lines.filter((l) => /^x-forwarded-proto/i.test(l)), ['X-Forwarded-Proto: https']);
  equal(lines.filter((l) => /^x-forwarded-host/i.test(l)), ['X-Forwarded-Host: out.test']);
  equal(lines.filter((l) => /^x-forwarded-prefix/i.test(l)), ['X-Forwarded-Prefix: /outer/app']);
  equal(lines.filter((l) => /^x-request-id/i.test(l)), ['X-Request-Id: keep-me']);
});

scenario('T42 trace context passes when valid and is dropped when not', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  const valid = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  await ask(edge, get('/app/1', `traceparent: ${valid}\r\ntracestate: a=1\r\n`));
  check(o.all.includes(`traceparent: ${valid}\r\ntracestate: a=1\r\n`), o.all);
  for (const bad of ['00-00000000000000000000000000000000-b7ad6b7169203331-01', 'garbage', `ff${valid.slice(2)}`,
    valid.toUpperCase(), `${valid}-x`, `${valid}\r\ntraceparent: ${valid}`]) {
    const before = o.all.length;
    await ask(edge, get('/app/2', `traceparent: ${bad}\r\ntracestate: a=1\r\n`));
    check(!/^trace/im.test(o.all.slice(before)), bad);
  }
  const before = o.all.length;
  await ask(edge, get('/app/3', `traceparent: ${valid}\r\ntracestate: a=${'1'.repeat(600)}\r\n`));
  check(/traceparent/.test(o.all.slice(before)) && !/tracestate/.test(o.all.slice(before)), 'a long tracestate');
});

scenario('T42 with tracing on, what brings no valid trace context gets a new one', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--tracing', '--trace_sample=1');
  const valid = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  await ask(edge, get('/app/kept', `traceparent: ${valid}\r\n`));
  equal(o.all.match(/^traceparent: .*\r$/gm), [`traceparent: ${valid}\r`]);
  equal((await edge.line((l) => l.path === '/app/kept')).trace_id, valid.slice(3, 35));
  const seen = new Set();
  for (const fields of ['', 'traceparent: garbage\r\ntracestate: a=1\r\n', `traceparent: ${valid}\r\ntraceparent: ${valid}\r\n`]) {
    const before = o.all.length;
    await ask(edge, get(`/app/new${seen.size}`, fields));
    const heads = o.all.slice(before);
    const [, id] = /^traceparent: 00-([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-03\r$/m.exec(heads) ?? [];
    check(id && !/^0+$/.test(id) && heads.match(/^trace/gim).length === 1, heads);
    equal((await edge.line((l) => l.path === `/app/new${seen.size}`)).trace_id, id, 'trace id of the log');
    seen.add(id);
  }
  equal(seen.size, 3, 'different ids');
});

scenario('T42 the share of new traces that is sampled can be none', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--tracing', '--trace_sample=0');
  for (let i = 0; i < 20; ++i) await ask(edge, get());
  const flags = o.all.match(/^traceparent: .*-(\w\w)\r$/gm).map((line) => line.slice(-3, -1));
  equal(flags, Array(20).fill('02'));
});

scenario('T42 several tracestate fields are one list, of 512 bytes at most', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  const valid = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  const state = (size) => `tracestate: a=${'1'.repeat(size - 2)}\r\n`;
  await ask(edge, get('/app/1', `traceparent: ${valid}\r\n${state(256)}${state(255)}`));
  equal(o.all.match(/^tracestate/gm)?.length, 2, '512 bytes');
  const before = o.all.length;
  await ask(edge, get('/app/2', `traceparent: ${valid}\r\n${state(256)}${state(256)}`));
  equal(o.all.slice(before).match(/^trace\w+/gm), ['traceparent'], '513 bytes');
});

scenario('T42 X-Request-Id is kept from trusted peers if it is plain, else new', async (t) => {
  const o = await originFor(t, answering(OK));
  const trusting = await edgeFor(t, { app: [o.url] }, '--trusted_proxies=127.0.0.0/8');
  const plain = await edgeFor(t, { app: [o.url] });
  const idOf = async (edge, fields) => {
    const before = o.all.length;
    const answer = await ask(edge, get('/app/x', fields));
    const ids = o.all.slice(before).match(/^x-request-id: .*\r$/gim);
    equal(ids.length, 1, 'ids');
    equal(/^x-request-id: (.*)\r$/im.exec(answer)[1], ids[0].slice(14, -1), 'id told to the client');
    return ids[0].slice(14, -1);
  };
  equal(await idOf(trusting, 'X-Request-Id: keep-me\r\n'), 'keep-me');
  for (const bad of ['a"b', 'a b', 'x'.repeat(65), '\xff']) {
    check(/^[0-9a-f]{32}$/.test(await idOf(trusting, `X-Request-Id: ${bad}\r\n`)), bad);
  }
  check(/^[0-9a-f]{32}$/.test(await idOf(plain, 'X-Request-Id: not-me\r\n')), 'of a stranger');
});

scenario('Max-Forwards counts down for OPTIONS and ends at the edge', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  const options = (fields) => `OPTIONS /app/x HTTP/1.1\r\nHost: e\r\n${fields}\r\n`;
  equal(statusOf(await ask(edge, options('Max-Forwards: 5\r\n'))), 200);
  check(/^Max-Forwards: 4\r$/m.test(o.all), o.all);
  equal(statusOf(await ask(edge, options('Max-Forwards: 0\r\n'))), 200);
  equal(statusOf(await ask(edge, options('Max-Forwards: x\r\n'))), 400);
  equal(statusOf(await ask(edge, 'OPTIONS * HTTP/1.1\r\nHost: e\r\n\r\n')), 200);
  equal(o.requests(), 1, 'forwarded');
});

scenario('a loop through the edge comes to an end', async (t) => {
  const port = await freePort();
  const edge = await edgeFor(t, { app: [`http://127.0.0.1:${port}`] }, `--listen=127.0.0.1:${port}`);
  edge.port = port;
  equal(statusOf(await ask(edge, get(`${'/app'.repeat(30)}/x`))), 508);
});

scenario('responses to a pipeline come in order, whatever their kind', async (t) => {
  const o = await originFor(t, answering((c) => OK.replace('ok', `${(c.n = (c.n ?? 0) + 1)}`.padStart(2, '0'))));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  let all = '';
  const want = [];
  for (let i = 0; i < 200; ++i) {
    if (i % 7 === 3) { all += get('/nobody/'); want.push(404); }
    else if (i % 7 === 5) { all += get('/_mesh/health'); want.push(200); }
    else if (i % 7 === 6) { all += get('/app'); want.push(308); }
    else { all += i % 2 ? post('Content-Length: 3\r\n', 'abc') : get(); want.push(200); }
  }
  c.write(all);
  await until(() => c.statuses().length === 200, 'all responses');
  equal(c.statuses(), want);
});

// The log.

scenario('T43 each request has one line that says how it ended', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url], none: [] });
  await ask(edge, get('/app/%22quoted%22?secret', 'User-Agent: "x\\\r\n'));
  await ask(edge, get('/none/'));
  await ask(edge, 'GET /app/\x01 HTTP/1.1\r\n\r\n');
  await ask(edge, get('/app/a"b'));
  const line = await edge.line((l) => l.path === '/app/%22quoted%22');
  equal([line.method, line.status, line.app, line.end, line.attempts, line.host],
    ['GET', 200, 'app', 'origin.complete', 1, 'e.test']);
  check(line.bytes_in > 0 && line.bytes_out > 0 && line.duration_us >= 0 && line.client === '127.0.0.1', JSON.stringify(line));
  await edge.line((l) => l.status === 503 && l.end === 'edge.no_endpoint');
  await edge.line((l) => l.status === 400 && l.end === 'edge.bad_request');
  await edge.line((l) => l.path === '/app/a"b');
  equal(edge.lines().length, 4, 'lines');
});

scenario('T43 200, 499, 502, 503, 408, 101 and 400 have one line each', async (t) => {
  const o = await originFor(t, origin((c, text) => {
    if (/^GET \/ok/.test(text)) c.socket.write(OK);
    if (/^GET \/bad/.test(text)) c.socket.write('nonsense\r\n\r\n');
    if (/^GET \/ws/.test(text)) c.socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
  }));
  const edge = await edgeFor(t, { app: [o.url], none: [] }, '--body_idle_timeout_ms=100', '--half_close_timeout_ms=50');
  await ask(edge, get('/app/ok'));
  await ask(edge, get('/app/bad'));
  await ask(edge, get('/none/503'));
  await ask(edge, post('Content-Length: 10\r\n', 'x', '/app/408'));
  await ask(edge, 'GET /app/400 HTTP/1.1\r\nHost: a b\r\n\r\n');
  const tunnel = await client(edge);
  tunnel.write(get('/app/ws', 'Connection: Upgrade\r\nUpgrade: echo\r\n'));
  await tunnel.until(/101/);
  tunnel.socket.destroy();
  const gone = await client(edge);
  gone.write(get('/app/hang'));
  await until(() => o.all.includes('GET /hang'), 'the request');
  gone.socket.destroy();
  await until(() => edge.lines().length === 7, 'all lines');
  const ends = Object.fromEntries(edge.lines().map((l) => [l.status, l]));
  equal(Object.keys(ends), ['101', '200', '400', '408', '499', '502', '503'], 'statuses');
  equal(ends[200].end, 'origin.complete');
  equal(ends[400].end, 'edge.bad_request');
  equal(ends[408].end, 'client.body_timeout');
  equal(ends[502].end, 'origin.bad_response');
  equal(ends[503].end, 'edge.no_endpoint');
  check(ends[499].end.startsWith('client.'), ends[499].end);
  check(ends[101].end.startsWith('tunnel.'), ends[101].end);
  for (const line of edge.lines()) {
    check(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/.test(line.ts), line.ts);
    check(Math.abs(Date.now() - Date.parse(line.ts)) < 60000, line.ts);
    check(/^[0-9a-f]{32}$/.test(line.request_id), line.request_id);
    equal([typeof line.bytes_in, typeof line.bytes_out, typeof line.duration_us, typeof line.attempts], Array(4).fill('number'));
    equal(line.instance, ['101', '200', '408', '499', '502'].includes(`${line.status}`) ? 'static-app-0' : '', 'instance');
  }
});

scenario("T43 the edge's own pages have no line and are in no count of requests", async (t) => {
  const edge = await edgeFor(t, { app: [] });
  for (const page of ['health', 'ready', 'metrics', 'nothing']) await ask(edge, get(`/_mesh/${page}`));
  await ask(edge, get('/app/last'));
  await edge.line((l) => l.path === '/app/last');
  equal(edge.lines().length, 1, 'lines');
  check((await edge.metric('mycelium_edge_page_requests_total')) >= 4, 'pages');
  const page = await ask(edge, get('/_mesh/metrics'));
  const requests = page.split('\n').filter((l) => /^mycelium_edge_requests_total.* [1-9]/.test(l));
  equal(requests, ['mycelium_edge_requests_total{mycelium_app="app",http_request_method="GET",http_response_status_class="5xx"} 1']);
});

scenario('T43 above its rate the log keeps failures, and says what it left out', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url], none: [] }, '--access_log_max_per_second=5');
  const c = await client(edge);
  // Within one second of the edge's clock, or across its border: 5 or 10 lines.
  c.write(get('/app/fine').repeat(200) + get('/none/failed').repeat(3));
  await until(() => c.statuses().length === 203, 'all responses');
  await until(() => edge.lines().filter((l) => l.path === '/none/failed').length === 3, 'the failures');
  const fine = edge.lines().filter((l) => l.path === '/app/fine').length;
  check(fine >= 5 && fine <= 10, `${fine} lines`);
  const left_out = edge.lines().reduce((sum, l) => sum + (l.skipped_lines ?? 0), 0);
  equal(left_out + fine, 200, 'lines and what they say was left out');
  equal(await edge.metric('mycelium_edge_log_skips_total'), 200 - fine, 'counted');
});

scenario('T43 a share of the requests can be logged, and all failures', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url], none: [] }, '--access_log_sample=0');
  const c = await client(edge);
  c.write(get('/app/fine').repeat(50) + get('/none/failed').repeat(3));
  await until(() => c.statuses().length === 53, 'all responses');
  await until(() => edge.lines().length === 3, 'the failures');
  equal(edge.lines()[0].skipped_lines, 50, 'left out');
});

scenario('SIGUSR1 opens the access log anew, and no line is lost', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  const log = `${edge.directory}/access.log`;
  const linesOf = (path) => fs.readFileSync(path, 'utf8').split('\n').filter(Boolean).length;
  const c = await client(edge);
  let sent = 0;
  for (let i = 1; i <= 3; ++i) {
    c.write(get().repeat(100));
    sent += 100;
    await until(() => c.statuses().length === sent, 'responses');
    fs.renameSync(log, `${log}.${i}`);
    edge.child.kill('SIGUSR1');
    await until(() => fs.existsSync(log), 'the new file');
  }
  await ask(edge, get('/app/last'));
  await edge.line((l) => l.path === '/app/last');
  const all = [`${log}.1`, `${log}.2`, `${log}.3`, log].reduce((sum, path) => sum + linesOf(path), 0);
  equal(all, 301, 'lines');
  equal(edge.exit, null, 'exit');
});

scenario('T44 a full disk holds up no request, and what it took is counted', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--access_log=/dev/full');
  const c = await client(edge);
  c.write(get().repeat(300));
  await until(() => c.statuses().length === 300, 'all responses');
  await until(async () => (await edge.metric('mycelium_edge_log_write_errors_total')) === 300, 'the count');
});

scenario('T44 a log that nobody reads holds up no request', async (t) => {
  const o = await originFor(t, answering(OK));
  const pipe = `${fs.mkdtempSync('/tmp/edge-pipe-')}/log`;
  t.cleanup(() => fs.rmSync(pipe.replace(/\/log$/, ''), { recursive: true }));
  execFileSync('mkfifo', [pipe]);
  const reader = fs.openSync(pipe, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  t.cleanup(() => fs.closeSync(reader));
  const edge = await edgeFor(t, { app: [o.url] }, `--access_log=${pipe}`);
  const c = await client(edge);
  for (let i = 0; i < 8000; i += 100) {
    c.write(get().repeat(100));
    await until(() => c.statuses().length >= i + 100, `${i} responses`, 10000);
  }
  check((await edge.metric('mycelium_edge_log_drops_total')) > 0, 'no drop was counted');
});

// The end.

scenario('T28 on SIGTERM what is under way ends well, idle ones are closed, exit 0', async (t) => {
  const o = await originFor(t, origin((c) => setTimeout(() => c.socket.write(OK), 300)));
  const edge = await edgeFor(t, { app: [o.url] });
  const idle = await client(edge);
  idle.write(get('/_mesh/health'));
  await idle.until(/alive/);
  const busy = await client(edge);
  busy.write(get());
  await until(() => o.requests() === 1, 'the request');
  edge.child.kill('SIGTERM');
  await idle.untilEnd(1000);
  await busy.until(/ok$/);
  check(/^connection: close\r$/im.test(busy.got), busy.got);
  await busy.untilEnd(1000);
  await until(() => edge.exit !== null, 'the exit', 2000);
  equal(edge.exit, 0, 'exit');
  await client(edge).then(() => { throw new Error('still accepting'); }, () => {});
});

scenario('T28b a request that never ends does not outlive the drain timeout', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] }, '--drain_timeout_ms=300');
  const c = await client(edge);
  c.write(get());
  await until(() => o.requests() === 1, 'the request');
  edge.child.kill('SIGTERM');
  await until(() => edge.exit !== null, 'the exit', 2000);
  equal(edge.exit, 0, 'exit');
});

scenario('while draining the edge is alive and not ready', async (t) => {
  const o = await originFor(t, origin(() => {}));
  const edge = await edgeFor(t, { app: [o.url] }, '--drain_timeout_ms=1000');
  const c = await client(edge);
  c.write(get());
  await until(() => o.requests() === 1, 'the request');
  const probe = await client(edge);
  await sleep(20);
  edge.child.kill('SIGTERM');
  await sleep(50);
  probe.write(get('/_mesh/ready'));
  await probe.until(/^HTTP\/1\.1 503/);
});
