// The duties of a gateway that take more than one message to show: what an
// attacker would try from either side.
import { OK, answering, ask, check, client, equal, get, origin, post, statusOf, until } from './harness.mjs';
import { edgeFor, originFor } from './scenarios.mjs';

export const duties = [];
const scenario = (name, play) => duties.push([name, play]);

// The heads that the origin got.
const heads = (o) => o.all.split('\r\n\r\n').filter((h) => / HTTP\/1\.1\r\n/.test(h));
const linesOf = (text, name) => text.split('\r\n').filter((l) => l.toLowerCase().startsWith(`${name}:`));

scenario('each way to hide a coding or a length is refused, and nothing behind it is read', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const fields of [
    'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity',
    'Transfer-Encoding: identity', 'Transfer-Encoding: identity, chunked', 'Transfer-Encoding: chunked, identity',
    'Transfer-Encoding: chunked,', 'Transfer-Encoding: ,chunked', 'Transfer-Encoding: chunked;x=1', 'Transfer-Encoding: \x0bchunked',
    'Transfer-Encoding: chunked\x0c', 'Transfer-Encoding: chun ked', 'Transfer-Encoding: chunked\xa0', 'Transfer-Encoding: chunkedchunked',
    'Transfer-Encoding:', 'Transfer-Encoding : chunked', 'Transfer-Encoding\t: chunked', ' Transfer-Encoding: chunked',
    'X: y\r\n Transfer-Encoding: chunked', 'X: y\nTransfer-Encoding: chunked', 'X: y\rTransfer-Encoding: chunked',
    'Transfer-Encoding:\r\n chunked', 'Transfer-Encoding\0: chunked', 'Content-Length: 5\r\nTransfer-Encoding: chunked',
    'Content-Length: 5\r\nContent-Length: 5', 'Content-Length: 5\r\ncontent-length: 0', 'Content-Length: 5,', 'Content-Length: 5;',
    'Content-Length: 5\0', 'Content-Length: 5\x0b', 'Content-Length: \xb2', 'Content-Length: 5e0', 'Content-Length: 9223372036854775808',
    'Content-Length: 0000000000000000000000000005', 'Content-Length : 5', 'Content-Length: 5\r\n 5', 'Content-Length: "5"',
  ]) {
    const c = await client(edge);
    c.write(`POST /app/x HTTP/1.1\r\nHost: e.test\r\n${fields}\r\n\r\n0\r\n\r\n${get('/app/EVIL')}`);
    await c.untilEnd();
    equal(c.statuses(), [400], JSON.stringify(fields));
    c.socket.destroy();
  }
  equal(o.connections.length, 0, 'connections to the origin');
});

scenario('a field that a CGI takes for framing does not reach the app, from either side', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 200 OK\r\nContent_Length: 9\r\nTransfer.Encoding: chunked\r\nContent-Length: 2\r\n\r\nok'));
  const edge = await edgeFor(t, { app: [o.url] });
  const got = await ask(edge, post('Content-Length: 5\r\nTransfer_Encoding: chunked\r\nContent.Length: 9\r\nCONTENT_LENGTH: 9\r\nTransfer~Encoding: chunked\r\n', 'hello'));
  check(!/_length|\.length|[._~]encoding/i.test(o.all + got), o.all + got);
  equal(linesOf(o.all, 'content-length'), ['Content-Length: 5']);
  equal(linesOf(got, 'content-length'), ['Content-Length: 2']);
});

scenario('exactly one valid Host, whatever is tried', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const fields of ['', 'Host:', 'Host: a, b', 'Host: a b', 'Host: a\r\nHost: a', 'Host: a\r\nhost: b', 'Host: u@a', 'Host: a:b', 'Host: a:-1',
    'Host: a:65536', 'Host: a/', 'Host: a?b', 'Host: a#b', 'Host: a\\b', 'Host: [::1', 'Host: ::1', 'Host: [x]', 'Host: [::1]x', 'Host: a%', 'Host: a%zz',
    'Host: "a"', 'Host: <a>', 'Host: \xe9', 'Host: :80', 'Host : a', ' Host: a', 'Host: a\r\n b', 'Host: a\0']) {
    const got = await ask(edge, `GET /app/x HTTP/1.1\r\n${fields}${fields ? '\r\n' : ''}\r\n`);
    equal(statusOf(got), 400, JSON.stringify(fields));
  }
  equal(o.connections.length, 0, 'connections to the origin');
  for (const host of ['a', 'a:', 'a:0', 'A.B:65535', '[::1]', '[::ffff:1.2.3.4]:80', '1.2.3.4', 'a%41', 'xn--x_y~z']) {
    equal(statusOf(await ask(edge, `GET /app/x HTTP/1.1\r\nHost: ${host}\r\n\r\n`)), 200, host);
    equal(linesOf(heads(o).pop(), 'host'), [`Host: ${host}`]);
  }
});

scenario('the target in absolute form wins over Host, and only if it is one', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const [target, host, line] of [['http://good.test/app/x', 'good.test', 'GET /x HTTP/1.1'], ['HTTP://good.test:8/app/?q', 'good.test:8', 'GET /?q HTTP/1.1'],
    ['http://good.test/app/http://evil/', 'good.test', 'GET /http://evil/ HTTP/1.1']]) {
    equal(statusOf(await ask(edge, `GET ${target} HTTP/1.1\r\nHost: evil.test\r\n\r\n`)), 200, target);
    const head = heads(o).pop();
    equal(linesOf(head, 'host'), [`Host: ${host}`]);
    equal(linesOf(head, 'x-forwarded-host'), [`X-Forwarded-Host: ${host}`]);
    equal(head.split('\r\n')[0], line);
  }
  const before = o.requests();
  for (const target of ['http:///app/x', 'http://u@good.test/app/x', 'ftp://good.test/app/x', 'http:/app/x', 'good.test/app/x', 'http://good.test:99999/app/x',
    'http://a,b/app/x', 'http://good.test\\@evil/app/x', '//', 'app/x', '*', '?']) {
    const status = statusOf(await ask(edge, `GET ${target} HTTP/1.1\r\nHost: e\r\n\r\n`));
    check([400, 404].includes(status), `${target}: ${status}`);
  }
  // Host has to be valid even where it does not count (RFC 9112, 3.2).
  equal(statusOf(await ask(edge, 'GET http://good.test/app/x HTTP/1.1\r\n\r\n')), 400, 'no Host');
  equal(o.requests(), before, 'forwarded');
});

scenario('an upgrade that the origin refuses leaves the bytes behind it to the edge', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n'));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  // A proxy that takes the upgrade for granted would pass the second one on as
  // it is, to an app and a path of the attacker's choice.
  c.write(get('/app/x', 'Connection: Upgrade\r\nUpgrade: websocket\r\n') + get('/nobody/EVIL'));
  await until(() => c.statuses().length === 2, 'two responses');
  equal(c.statuses(), [426, 404]);
  check(!o.all.includes('EVIL'), o.all);
});

scenario('HTTP/2 does not get in by an upgrade, nor by its preface', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const upgrade of ['h2c', 'H2C', 'websocket, h2c', 'h2c-14', 'HTTP/2.0', 'TLS/1.3']) {
    const c = await client(edge);
    c.write(`${get('/app/x', `Connection: Upgrade, HTTP2-Settings\r\nUpgrade: ${upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n`)}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`);
    await c.untilEnd();
    equal(c.statuses(), [200, 505], upgrade);
    check(!/upgrade|http2|PRI/i.test(heads(o).pop()), o.all);
  }
});

scenario('after Connection: close nothing more is read as a request', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const first of [get('/app/x', 'Connection: close\r\n'), get('/app/x', 'Connection: keep-alive, CLOSE\r\n'), get('/app/x', 'Connection: x\r\nConnection: close\r\n'),
    'GET /app/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n', get('/nobody/', 'Connection: close\r\n')]) {
    const c = await client(edge);
    c.write(first + get('/app/EVIL'));
    await c.untilEnd();
    equal(c.statuses().length, 1, JSON.stringify(first));
  }
  check(!o.all.includes('EVIL'), o.all);
});

scenario('expectations that nobody knows are 417, and 1.0 clients have none', async (t) => {
  const o = await originFor(t, answering(OK));
  const edge = await edgeFor(t, { app: [o.url] });
  for (const value of ['200-ok', '100-continue, x', '100-continue;q=1', '"100-continue"', '100', '100-continue 100-continue', '']) {
    const got = await ask(edge, post(`Expect: ${value}\r\nContent-Length: 5\r\n`));
    equal(statusOf(got), 417, value);
    check(/^connection: close\r$/im.test(got), got);
  }
  equal(o.connections.length, 0, 'connections to the origin');
  equal(statusOf(await ask(edge, 'POST /app/x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello')), 200);
  equal(statusOf(await ask(edge, get('/app/x', 'Expect: 100-Continue\r\n'))), 200);
  check(!/expect/i.test(o.all), o.all);
});

scenario('a body of GET, HEAD or DELETE is carried, and what follows is another request', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 204 None\r\n\r\n'));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  const evil = get('/nobody/EVIL');
  for (const [i, method] of ['GET', 'HEAD', 'DELETE', 'OPTIONS', 'PURGE'].entries()) {
    c.write(`${method} /app/x HTTP/1.1\r\nHost: e\r\nContent-Length: ${evil.length}\r\n\r\n${evil}`);
    await until(() => c.statuses().length === i + 1, `the answer to ${method}`);
  }
  equal(c.statuses(), [204, 204, 204, 204, 204]);
  equal((o.all.match(/^Content-Length: \d+\r$/gm) ?? []).length, 5, 'lengths');
});

scenario('the chunks of a request are made anew, and none can be longer than it says', async (t) => {
  const o = await originFor(t, origin((c) => {
    if (/\r\n0\r\n\r\n$/.test(c.all)) c.socket.write(OK);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const got = await ask(edge, post('Transfer-Encoding: chunked\r\n', '0005;a="\\"\\\\"\r\nhello\r\n00;last\r\n\r\n'));
  equal(statusOf(got), 200);
  check(/\r\n\r\n5\r\nhello\r\n0\r\n\r\n$/.test(o.all), o.all);
  const extension = `5;${'a'.repeat(5000)}\r\nhello\r\n0\r\n\r\n`;
  equal(statusOf(await ask(edge, post('Transfer-Encoding: chunked\r\n', extension))), 400, 'a long extension');
  const many = `1;${'a'.repeat(400)}\r\nx\r\n`.repeat(20);
  const c = await client(edge);
  c.write(post('Transfer-Encoding: chunked\r\n', `${many}0\r\n\r\n`) + get('/app/EVIL'));
  await c.untilEnd();
  equal(c.statuses(), [400], 'many extensions');
  check(!o.all.includes('EVIL') && !o.all.includes('aaaa'), 'what came behind the refused request');
});

scenario('trailers that Connection names end at the edge, in both directions', async (t) => {
  const coded = '5\r\nhello\r\n0\r\nX-Hop: 1\r\n\r\n';
  const o = await originFor(t, origin((c) => {
    if (/\r\n0\r\n(?:[^]*\r\n)?\r\n$/.test(c.all)) {
      c.socket.write(`HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 2\r\nTransfer-Encoding: chunked\r\n\r\n${coded}`);
    }
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(post('Connection: X-HOP\r\nTransfer-Encoding: chunked\r\n', coded));
  await c.until(/hello\r\n0\r\n\r\n$/);
  check(!/x-hop/i.test(o.all) && !/x-hop/i.test(c.got), o.all + c.got);
});

scenario('a field that an origin’s Connection names is cut, but not what says when and how long', async (t) => {
  const o = await originFor(t, answering('HTTP/1.1 200 OK\r\nConnection: date, content-length, x-hop\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Hop: 1\r\n' +
    'X-Mycelium-Reason: spoofed\r\nX-Request-Id: spoofed\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nok'));
  const edge = await edgeFor(t, { app: [o.url] });
  const got = await ask(edge, get());
  equal(linesOf(got, 'date'), ['Date: Sun, 06 Nov 1994 08:49:37 GMT']);
  equal(linesOf(got, 'content-length'), ['Content-Length: 2']);
  check(!/x-hop|spoofed|keep-alive|^connection/im.test(got), got);
});

scenario('an interim response with a body poisons nobody’s next response', async (t) => {
  const fake = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nFAKE';
  const o = await originFor(t, origin((c) => {
    if (c.number > 0) return c.socket.write(OK);
    // What the edge takes for the response is the body that 103 may not have.
    c.socket.write(`HTTP/1.1 103 Early Hints\r\nContent-Length: ${fake.length}\r\n\r\n${fake}`);
  }));
  const edge = await edgeFor(t, { app: [o.url] });
  const c = await client(edge);
  c.write(get('/app/1'));
  await c.until(/FAKE$/);
  equal(c.statuses(), [103, 200]);
  await until(() => o.connections[0].ended || o.connections[0].closed, 'the end of that connection');
  check((await ask(edge, get('/app/2'))).endsWith('ok'), 'the next response');
  equal(o.connections.length, 2, 'connections');
});

scenario('bytes behind a response without a body never reach a client', async (t) => {
  const evil = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL';
  for (const [request, response] of [
    ['HEAD', `HTTP/1.1 200 OK\r\nContent-Length: ${evil.length}\r\n\r\n${evil}`], ['HEAD', `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${evil}`],
    ['GET', `HTTP/1.1 304 No\r\nContent-Length: ${evil.length}\r\n\r\n${evil}`], ['GET', `HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n${evil}`],
    ['GET', `HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n${evil}`], ['GET', `HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n${evil}`],
    ['GET', `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${evil}`],
  ]) {
    const o = await originFor(t, answering((c) => (c.number === 0 ? response : OK)));
    const edge = await edgeFor(t, { app: [o.url] });
    const c = await client(edge);
    c.write(`${request} /app/1 HTTP/1.1\r\nHost: e\r\n\r\n${get('/app/2')}`);
    await c.until(/\r\n\r\nok$/);
    equal(c.statuses().length, 2, JSON.stringify(response));
    check(!c.got.includes('EVIL'), c.got);
    equal(o.connections.length, 2, 'connections');
    c.socket.destroy();
    await edge.stop();
  }
});

scenario('a redirect of the edge says nothing that was not asked', async (t) => {
  const edge = await edgeFor(t, { app: [] });
  const got = await ask(edge, get('/app?a=%0d%0aSet-Cookie:x&b=//evil'));
  equal(statusOf(got), 308);
  equal(linesOf(got, 'location'), ['Location: /app/?a=%0d%0aSet-Cookie:x&b=//evil']);
  check(!/^set-cookie/im.test(got), got);
});

scenario('Max-Forwards counts once, for OPTIONS alone, and Via and Date are there', async (t) => {
  const o = await originFor(t, answering('HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const edge = await edgeFor(t, { app: [o.url] });
  const options = (fields) => `OPTIONS /app/x HTTP/1.1\r\nHost: e\r\n${fields}\r\n`;
  equal(statusOf(await ask(edge, options('Max-Forwards: 7\r\nMax-Forwards: 3\r\n'))), 200);
  equal(linesOf(heads(o).pop(), 'max-forwards'), ['Max-Forwards: 6']);
  for (const bad of ['-1', '1.0', '+1', '', '0x1', '99999999999999999999999']) {
    equal(statusOf(await ask(edge, options(`Max-Forwards: ${bad}\r\n`))), 400, bad);
  }
  const got = await ask(edge, get('/app/x', 'Max-Forwards: 0\r\nVia: 1.0 fred\r\n'));
  equal(linesOf(heads(o).pop(), 'max-forwards'), ['Max-Forwards: 0']);
  const vias = linesOf(heads(o).pop(), 'via');
  check(vias.length === 2 && vias[0] === 'Via: 1.0 fred' && /^Via: 1\.1 \S+$/.test(vias[1]), String(vias));
  check(/^HTTP\/1\.1 200 /.test(got) && /^Via: 1\.0 \S+\r$/m.test(got), got);
  equal(linesOf(got, 'date').length, 1, 'Date');
});
