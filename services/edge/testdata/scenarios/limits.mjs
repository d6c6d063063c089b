// What a plan's traffic policy limits and holds, and PROXY headers: each
// scenario runs against an edge of its own.
import {
  OK, answering, ask, check, client, equal, get, origin, post, reasonOf, sleep, statusOf, until,
} from './harness.mjs';
import { edgeFor, originFor } from './scenarios.mjs';

export const limits = [];
const scenario = (name, play) => limits.push([name, play]);

const traffic = (policies) => `--static_traffic=${
  Object.entries(policies).map(([app, policy]) => `${app}=${JSON.stringify(policy)}`).join(';')}`;
const retryAfter = (response) => Number(/^retry-after: (\d+)\r$/im.exec(response)?.[1]);
const held = (edge, count) => until(
  async () => (await edge.metric('mycelium_edge_upstream_queue')) === count, `${count} held`);

// An origin that answers when told to: answer() the first that waits.
async function waiting(t) {
  const pending = [];
  const o = await originFor(t, origin((c, text) => {
    for (const [, path] of text.matchAll(/^[A-Z]+ (\S+) HTTP\/1\.1\r$/gm)) pending.push({ c, path });
  }));
  o.pending = pending;
  o.answer = async () => {
    await until(() => pending.length > 0, 'a request at the origin');
    const { c, path } = pending.shift();
    c.socket.write(OK);
    return path;
  };
  return o;
}

// Requests that wait.

scenario('T15 a held request that no endpoint comes for is answered when its wait is over', async (t) => {
  const edge = await edgeFor(t, { app: [] }, traffic({ app: { hold: { maxWait: '0.300s' } } }));
  const start = Date.now();
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got)], [503, 'hold_timeout']);
  check(retryAfter(got) >= 1, got);
  check(Date.now() - start >= 280, `after ${Date.now() - start} ms`);
  equal((await edge.line((l) => l.app === 'app')).end, 'edge.hold_timeout');
});

scenario('T15b without a hold the answer comes at once', async (t) => {
  const edge = await edgeFor(t, { app: [] });
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got)], [503, 'no_endpoint']);
  check(retryAfter(got) >= 1, got);
});

scenario('T15c no more are held than may be', async (t) => {
  const edge = await edgeFor(t, { app: [], other: [] },
    traffic({ app: { hold: { maxRequests: 2 } }, other: { hold: { maxWait: '0.100s' } } }));
  const first = await client(edge);
  first.write(get());
  const second = await client(edge);
  second.write(get());
  await held(edge, 2);
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got)], [503, 'hold_full']);
  equal(reasonOf(await ask(edge, get('/other/x'))), 'hold_timeout', 'another app');
  // One that leaves makes room.
  first.socket.resetAndDestroy();
  await held(edge, 1);
  const third = await client(edge);
  third.write(get());
  await held(edge, 2);
  equal([second.got, third.got], ['', '']);
});

scenario('T15d a client that leaves while its request is held is logged as such', async (t) => {
  const edge = await edgeFor(t, { app: [] }, traffic({ app: { hold: {} } }), '--half_close_timeout_ms=100');
  const gone = await client(edge);
  gone.write(get('/app/gone'));
  const closed = await client(edge);
  closed.write(post('Content-Length: 5\r\n', 'x', '/app/closed'));
  await held(edge, 2);
  gone.socket.resetAndDestroy();
  closed.socket.end();
  await held(edge, 0);
  const lines = [await edge.line((l) => l.path === '/app/gone'), await edge.line((l) => l.path === '/app/closed')];
  equal(lines.map((l) => l.status), [499, 499]);
  equal(lines.map((l) => l.end), ['client.reset', 'client.disconnected']);
});

scenario('T15e a client that has closed its sending side is answered if it is soon', async (t) => {
  const o = await waiting(t);
  const edge = await edgeFor(t, { app: [o.url] }, traffic({ app: { hold: {}, maxInFlight: 1 } }),
    '--half_close_timeout_ms=2000');
  const first = await client(edge);
  first.write(get());
  await until(() => o.pending.length === 1, 'the first request');
  const c = await client(edge);
  c.write(get());
  await held(edge, 1);
  c.socket.end();
  await sleep(50);
  await o.answer();
  await o.answer();
  await c.until(/ok$/);
});

scenario('T15f a body waits with its request, and arrives whole', async (t) => {
  const o = await waiting(t);
  const edge = await edgeFor(t, { app: [o.url] }, traffic({ app: { hold: {}, maxInFlight: 1 } }));
  const first = await client(edge);
  first.write(get());
  await until(() => o.pending.length === 1, 'the first request');
  const c = await client(edge);
  const body = Array.from({ length: 1 << 20 }, (_, i) => `${i}`.padStart(8)).join('');
  const before = edge.rss();
  c.write(post(`Content-Length: ${body.length}\r\n`, body));
  await held(edge, 1);
  await sleep(100);
  check(edge.rss() - before < 2048, `${edge.rss() - before} KiB more`);
  await o.answer();
  await until(() => o.all.endsWith(body), 'the body');
  await o.answer();
  await c.until(/ok$/);
});

scenario('T15g on SIGTERM held requests are answered before the time is over', async (t) => {
  const edge = await edgeFor(t, { app: [] }, traffic({ app: { hold: {} } }), '--drain_timeout_ms=500');
  const c = await client(edge);
  c.write(get());
  await held(edge, 1);
  edge.child.kill('SIGTERM');
  await c.untilEnd(2000);
  equal([c.statuses(), reasonOf(c.got)], [[503], 'hold_timeout']);
  await until(() => edge.exit !== null, 'the exit', 2000);
  equal(edge.exit, 0, 'exit');
});

// Limits on requests in flight.

scenario('T49 each endpoint gets its number, then requests wait in order, then 503', async (t) => {
  const [a, b] = [await waiting(t), await waiting(t)];
  const edge = await edgeFor(t, { app: [a.url, b.url] },
    traffic({ app: { maxInFlightPerEndpoint: 2, hold: { maxRequests: 3 } } }));
  const clients = [];
  for (let i = 0; i < 7; ++i) {
    const c = await client(edge);
    c.write(get(`/app/${i}`));
    clients.push(c);
    if (i < 4) await until(() => a.pending.length + b.pending.length === i + 1, `request ${i}`);
    else await held(edge, i - 3);
  }
  equal([a.pending.length, b.pending.length], [2, 2], 'at the endpoints');
  const got = await ask(edge, get());
  equal([statusOf(got), reasonOf(got)], [503, 'hold_full']);
  check(retryAfter(got) >= 1, got);
  // One that is answered lets the one that came first go on.
  for (const i of [4, 5, 6]) {
    await a.answer();
    await until(() => a.pending.length === 2, 'the next request');
    equal(a.pending.at(-1).path, `/${i}`);
  }
  equal(b.pending.length, 2, 'at the other endpoint');
  for (let i = 0; i < 2; ++i) await a.answer(), await b.answer();
  for (const c of clients) await c.until(/ok$/);
  equal(await edge.metric('mycelium_edge_upstream_queue'), 0, 'held');
});

scenario('T49b above an app\'s limit the answer is 503, and slots come back however a request ends', async (t) => {
  const o = await waiting(t);
  const edge = await edgeFor(t, { app: [o.url], other: [o.url] }, traffic({ app: { maxInFlight: 1 } }));
  const endings = {
    answered: async (c) => (await o.answer(), await c.until(/ok$/)),
    'left by the client': (c) => c.socket.resetAndDestroy(),
    'dropped by the origin': async (c) => (o.pending.shift().c.socket.destroy(), await c.until(/ 502 /)),
  };
  for (const [how, end] of Object.entries(endings)) {
    o.pending.length = 0;
    const c = await client(edge);
    c.write(get('/app/x'));
    await until(() => o.pending.length === 1, `the request to be ${how}`);
    const got = await ask(edge, get('/app/y'));
    equal([statusOf(got), reasonOf(got)], [503, 'overloaded'], how);
    check(retryAfter(got) >= 1, got);
    await end(c);
    await until(async () => (await edge.metric('http_server_active_requests')) === 0, 'the end of it');
  }
  o.pending.length = 0;
  const last = ask(edge, get('/app/z'));
  await o.answer();
  equal(statusOf(await last), 200);
});

scenario('T49c an endpoint that refuses gives its slot back', async (t) => {
  const o = await originFor(t, answering(OK));
  const dead = await originFor(t, origin(() => {}));
  dead.close();
  const edge = await edgeFor(t, { app: [dead.url, o.url] },
    traffic({ app: { maxInFlightPerEndpoint: 1, maxInFlight: 1 } }));
  for (let i = 0; i < 10; ++i) equal(statusOf(await ask(edge, get())), 200);
});

// Limits on rates.

scenario('T48 above an app\'s rate the answer is 429; other apps are untouched', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url], other: [o.url] },
    traffic({ app: { rateLimit: { requestsPerSecond: 0.01, burst: 2 } } }));
  const c = await client(edge);
  for (let i = 1; i <= 3; ++i) {
    c.write(get());
    await until(() => c.statuses().length === i, `response ${i}`);
  }
  equal(c.statuses(), [200, 200, 429]);
  equal(reasonOf(c.got), 'rate_limited');
  check(retryAfter(c.got) > 90 && retryAfter(c.got) <= 100, c.got);
  c.write(get('/other/x'));
  await until(() => c.statuses().length === 4, 'the connection to go on');
  equal(c.statuses()[3], 200);
  equal(o.requests(), 3);
  equal((await edge.line((l) => l.status === 429)).end, 'edge.rate_limited');
});

scenario('T48b each client has its own rate, an IPv6 network being one', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url], other: [o.url] },
    traffic({ app: { clientRateLimit: { requestsPerSecond: 0.01, burst: 1 } } }),
    '--proxy_protocol_from=127.0.0.1');
  const from = (address, path = '/app/x') => ask(edge,
    `PROXY ${address.includes(':') ? 'TCP6' : 'TCP4'} ${address} ${address} 1 2\r\n${get(path)}`);
  equal(statusOf(await from('192.0.2.1')), 200);
  const got = await from('192.0.2.1');
  equal([statusOf(got), reasonOf(got)], [429, 'client_rate_limited']);
  check(retryAfter(got) >= 1, got);
  equal(statusOf(await from('192.0.2.2')), 200);
  equal(statusOf(await from('2001:db8::1')), 200);
  equal(statusOf(await from('2001:db8::ffff:2')), 429);
  equal(statusOf(await from('2001:db8:0:1::1')), 200);
  equal(statusOf(await from('192.0.2.1', '/other/x')), 200, 'another app');
});

// Bodies.

scenario('T35b an app\'s own limit on bodies is kept, and only its own', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url], other: [o.url] },
    traffic({ app: { maxRequestBodyBytes: 1000 } }), '--max_body_bytes=2000');
  const of = async (app, size) => statusOf(await ask(edge,
    post(`Content-Length: ${size}\r\n`, 'x'.repeat(size), `/${app}/x`)));
  equal([await of('app', 1000), await of('app', 1001)], [200, 413]);
  equal([await of('other', 2000), await of('other', 2001)], [200, 413]);
  const before = o.connections.length;
  const got = await ask(edge, post('Content-Length: 1001\r\nExpect: 100-continue\r\n'));
  equal([statusOf(got), reasonOf(got), got.includes(' 100 ')], [413, 'body_too_large', false]);
  equal(o.connections.length, before, 'origin connections');
});

scenario('T36b a chunked body that becomes too long for its app is refused, or reset', async (t) => {
  const o = await originFor(t, origin((c, text) => {
    if (text.includes('early')) c.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha');
  }));
  const edge = await edgeFor(t, { app: [o.url] }, traffic({ app: { maxRequestBodyBytes: 1000 } }));
  const chunk = (size) => `${size.toString(16)}\r\n${'x'.repeat(size)}\r\n`;
  const c = await client(edge);
  c.write(post('Transfer-Encoding: chunked\r\n', chunk(256)));
  await until(() => o.all.includes('xxx'), 'the first chunk');
  c.write(`${chunk(1024)}0\r\n\r\n`);
  await c.untilEnd();
  equal(c.statuses(), [413]);
  await until(() => o.connections[0].ended || o.connections[0].closed, 'the end at the origin');
  const early = await client(edge);
  early.write(post('Transfer-Encoding: chunked\r\n', chunk(256), '/app/early'));
  await early.until(/ha$/);
  early.write(`${chunk(1024)}0\r\n\r\n`);
  await until(() => early.reset, 'the reset');
  await until(() => o.connections[1].ended || o.connections[1].closed, 'the end at the origin');
  check(!o.all.includes('\r\n0\r\n'), 'a request was completed');
});

// PROXY headers.

const SIGNATURE = '\r\n\r\n\0\r\nQUIT\n';
const binary = (command, family, block) =>
  SIGNATURE + String.fromCharCode(command, family, block.length >> 8, block.length & 255) + block;
const IPV4 = '\xc0\x00\x02\x07\x05\x06\x07\x08\x10\x92\x00\x50';
const forwardedFor = (o) => o.all.split('\r\n').filter((l) => /^x-forwarded-for/i.test(l));

scenario('T40 the client is who a PROXY header says, however it is split', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--proxy_protocol_from=127.0.0.0/8');
  const headers = [
    ['192.0.2.7', 'PROXY TCP4 192.0.2.7 5.6.7.8 4242 80\r\n'],
    ['2001:db8::7', 'PROXY TCP6 2001:db8::7 ::8 4242 80\r\n'],
    ['192.0.2.7', binary(0x21, 0x11, `${IPV4}\x01\x00\x02h2\x04\x00\x00`)],
    ['127.0.0.1', 'PROXY UNKNOWN\r\n'],
    ['127.0.0.1', binary(0x20, 0x00, '')],
    ['127.0.0.1', binary(0x20, 0x11, IPV4)],
  ];
  for (const [i, [address, header]] of headers.entries()) {
    for (const pieces of [[header + get(`/app/${i}`)], [header, get(`/app/${i}`)],
      [...header, get(`/app/${i}`)]]) {
      const c = await client(edge);
      for (const piece of pieces) {
        c.write(piece);
        if (pieces.length > 1) await sleep(1);
      }
      await c.until(/ok$/);
      equal(forwardedFor(o).at(-1), `X-Forwarded-For: ${address}`, JSON.stringify(header));
      // The header is the connection's, not the request's.
      c.got = '';
      c.write(get(`/app/${i}`));
      await c.until(/ok$/);
      equal(forwardedFor(o).at(-1), `X-Forwarded-For: ${address}`);
      c.socket.destroy();
    }
    equal((await edge.line((l) => l.path === `/app/${i}`)).client, address, 'in the log');
  }
});

scenario('T40b what is no PROXY header is closed without an answer', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--proxy_protocol_from=127.0.0.1',
    '--header_timeout_ms=300');
  const bad = [
    get(), '\x16\x03\x01\x00\x05hello', `PROXY TCP4 192.0.2.7 5.6.7.8 4242 80\n${get()}`,
    `PROXY TCP4 192.0.2.7 5.6.7.8 4242\r\n${get()}`, `PROXY UNKNOWN ${'x'.repeat(100)}\r\n${get()}`,
    binary(0x22, 0x11, IPV4) + get(), binary(0x21, 0x11, IPV4.slice(1)) + get(),
    binary(0x21, 0x11, `${IPV4}\x03\x00\x04\x00\x00\x00\x00`) + get(),
    `${SIGNATURE}\x20\x00\xff\xff`,
    // Parts that nothing follows.
    '', 'PROXY TCP4 192.0.2.7', binary(0x21, 0x11, IPV4).slice(0, 20),
  ];
  for (const bytes of bad) {
    const c = await client(edge);
    c.write(bytes);
    await c.untilEnd(2000);
    equal(c.got, '', JSON.stringify(bytes));
  }
  const half = await client(edge);
  half.write('PROXY TCP4');
  half.socket.end();
  await half.untilEnd(200);
  equal(o.connections.length, 0, 'origin connections');
  const ok = await ask(edge, `PROXY UNKNOWN\r\n${get('/_mesh/metrics')}`);
  check(new RegExp(`^mycelium_edge_proxy_protocol_errors_total ${bad.length + 1}$`, 'm').test(ok), ok.slice(0, 600));
});

scenario('T40c nobody else\'s PROXY header is taken for one', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--proxy_protocol_from=192.0.2.0/24');
  equal(statusOf(await ask(edge, `PROXY TCP4 192.0.2.7 5.6.7.8 4242 80\r\n${get()}`)), 400);
  equal(statusOf(await ask(edge, binary(0x21, 0x11, IPV4) + get())), 400);
  equal(statusOf(await ask(edge, get())), 200);
  equal(forwardedFor(o), ['X-Forwarded-For: 127.0.0.1']);
});

scenario('T40d whether a peer is believed follows from the address in the header', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] }, '--proxy_protocol_from=127.0.0.1',
    '--trusted_proxies=192.0.2.7');
  const spoof = get('/app/x', 'X-Forwarded-For: 198.51.100.1\r\n');
  await ask(edge, `PROXY TCP4 192.0.2.8 5.6.7.8 1 2\r\n${spoof}`);
  equal(forwardedFor(o), ['X-Forwarded-For: 192.0.2.8']);
  await ask(edge, `PROXY TCP4 192.0.2.7 5.6.7.8 1 2\r\n${spoof}`);
  equal(forwardedFor(o).slice(1), ['X-Forwarded-For: 198.51.100.1', 'X-Forwarded-For: 192.0.2.7']);
});
