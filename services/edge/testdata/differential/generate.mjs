// Seeded messages: valid ones of many kinds, the wire cases, and mutations.
import { C } from '../http/cases.mjs';

export class Random {
  constructor(seed) {
    this.state = seed >>> 0 || 1;
  }
  next() { // mulberry32
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }
  below(limit) { return this.next() % limit; }
  chance(percent) { return this.below(100) < percent; }
  pick(list) { return list[this.below(list.length)]; }
}

const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'PROPFIND', 'PURGE', 'QUERY-X'];
const TARGETS = ['/app/x', '/app/', '/app/a%2Fb?c=d&e', '/app//x', 'http://e.test/app/y', 'http://e.test:81/app/z?q', '/app/~a!$&\'()*+,;=:@'];
const FIELDS = ['Accept: */*', 'X-A: 1', 'X-Empty:', 'X-Wide:  \t a b \t', 'Cookie: a=1; b=2', 'X-High: \xe9\xff', 'Connection: keep-alive',
  'Connection: X-A, x-b', 'TE: trailers', 'Via: 1.0 fred', 'Max-Forwards: 3', 'Expect: 100-continue', 'Keep-Alive: timeout=5',
  'X_Forwarded_For: 6.6.6.6', 'Forwarded: for=1', 'Trailer: X-T', '!#$%&\'*+-.^_`|~09aZ: token', 'Proxy: x', 'Proxy-Connection: close'];
const CHUNKS = ['5\r\nhello\r\n', '05\r\nhello\r\n', 'A\r\n0123456789\r\n', '5;a\r\nhello\r\n', '5;a=b;c="d e"\r\nhello\r\n', '1;x="\\""\r\n0\r\n',
  '7\r\nGET / H\r\n', '4\r\n\r\n\r\n\r\n'];
// What attackers put into heads.
const LINES = ['Content-Length: 5', 'Content-Length: 0', 'Content-Length: 5, 5', 'Content-Length: +5', 'Content-Length: 5 5', 'Content-Length:',
  'Transfer-Encoding: chunked', 'Transfer-Encoding: Chunked', 'Transfer-Encoding: xchunked', 'Transfer-Encoding: chunked, identity',
  'Transfer-Encoding: gzip, chunked', 'Transfer-Encoding: identity', 'Transfer-Encoding:\tchunked', 'Transfer-Encoding : chunked', ' Transfer-Encoding: chunked',
  'Transfer-Encoding: chunked\t', 'Transfer-Encoding: chunked;q=1', 'Transfer-Encoding: "chunked"', 'Transfer_Encoding: chunked', 'Transfer-Encoding\t: chunked',
  'X: y\nTransfer-Encoding: chunked', 'X: y\rTransfer-Encoding: chunked', 'Connection: close', 'Connection: Content-Length', 'Connection: Transfer-Encoding, Host',
  'Connection: upgrade', 'Upgrade: websocket', 'Upgrade: h2c', 'Host: evil.test', 'Host:', 'Host: e.test:99999', 'Content-Length: 18446744073709551616',
  'Content-Length: 0x5', 'Content-Length: 05', 'Content-Length: -0', 'Content-length: 5\r\nContent-Length: 6', ': x', 'NoColon', 'X\x00: y', 'X: \x00', 'X: a\x7fb'];
const BYTES = ['\r', '\n', '\r\n', '\0', ' ', '\t', ':', ';', ',', '"', '\\', '0', '5', 'f', '\x0b', '\x0c', '\x7f', '\x80', '\xa0', '\xff', '/', '?', '#', '%', '='];

function body(random, fields) {
  switch (random.below(4)) {
    case 0:
      return '';
    case 1: {
      const text = random.pick(['hello', '', '0\r\n\r\n', 'GET /app/evil HTTP/1.1\r\nHost: e\r\n\r\n', 'HTTP/1.1 200 OK\r\n\r\n']);
      fields.push(`Content-Length: ${text.length}`);
      return text;
    }
    default: {
      fields.push('Transfer-Encoding: chunked');
      let text = '';
      for (let i = random.below(4); i > 0; --i) text += random.pick(CHUNKS);
      text += random.pick(['0', '0', '000', '0;last']) + '\r\n';
      if (random.chance(30)) text += random.pick(['X-T: 1\r\n', 'X-T: 1\r\nX-U:\r\n', 'Content-MD5: x\r\n']);
      return `${text}\r\n`;
    }
  }
}

function head(random, fields) {
  for (let i = random.below(4); i > 0; --i) fields.push(random.pick(FIELDS));
  if (random.chance(20)) fields.push(random.pick(LINES));
  for (let i = fields.length - 1; i > 0; --i) { // Shuffled.
    const j = random.below(i + 1);
    [fields[i], fields[j]] = [fields[j], fields[i]];
  }
  return `${fields.map((f) => `${f}\r\n`).join('')}\r\n`;
}

function request(random) {
  const fields = ['Host: e.test'];
  const text = body(random, fields);
  const version = random.chance(8) ? random.pick(['HTTP/1.0', 'HTTP/1.2', 'HTTP/2.0', 'HTTP/1.9']) : 'HTTP/1.1';
  return `${random.chance(5) ? '\r\n' : ''}${random.pick(METHODS)} ${random.pick(TARGETS)} ${version}\r\n${head(random, fields)}${text}`;
}

function response(random) {
  const fields = [];
  const status = random.pick(['100 Continue', '103 Early Hints', '200 OK', '200 ', '200', '204 No Content', '206 \xe9', '304 Not Modified', '404 \t x', '426 U', '500 E']);
  const bare = /^(1|204|304)/.test(status);
  const text = bare ? '' : body(random, fields);
  if (status.startsWith('304') && random.chance(50)) fields.push('Content-Length: 9');
  return `HTTP/1.${random.chance(10) ? 0 : 1} ${status}\r\n${head(random, fields)}${text}`;
}

// One change of a kind that matters to parsers.
export function mutate(random, text) {
  const at = random.below(text.length + 1);
  const to = Math.min(text.length, at + 1 + random.below(8));
  switch (random.below(9)) {
    case 0:
    case 1:
      return text.slice(0, at) + String.fromCharCode(random.below(256)) + text.slice(at + 1);
    case 2:
    case 3:
      return text.slice(0, at) + random.pick(BYTES) + text.slice(at);
    case 4:
      return text.slice(0, at) + text.slice(to);
    case 5:
      return text.slice(0, at) + text.slice(at, to) + text.slice(at);
    case 6:
      return text.slice(0, at) + random.pick(BYTES) + text.slice(at + 1);
    case 7: { // A line more.
      const lines = text.split('\r\n');
      lines.splice(1 + random.below(lines.length), 0, random.pick(LINES));
      return lines.join('\r\n');
    }
    default: { // A line end of another kind.
      const ends = [...text.matchAll(/\r\n/g)];
      if (ends.length === 0) return text;
      const end = random.pick(ends).index;
      return text.slice(0, end) + random.pick(['\n', '\r', '\n\r', '\r\r\n', ' \r\n', '\r\n ', '\r\n\t', '']) + text.slice(end + 2);
    }
  }
}

const requestCases = C.map((c) => c.S.filter((s) => s !== 'WAIT' && s !== 'FIN').join('')).filter((s) => s.length < 4000);
const responseCases = C.flatMap((c) => c.U).filter((u) => u.length < 4000);

// A stream of messages, by Latin-1 characters.
export function stream(random, kind) {
  const requests = kind === 'Q';
  let text = '';
  if (random.chance(40)) text = random.pick(requests ? requestCases : responseCases);
  for (let i = 1 + random.below(3); i > 0 && text.length < 3000; --i) {
    text += requests ? request(random) : response(random);
  }
  if (random.chance(75)) text = mutate(random, text);
  if (random.chance(25)) text = mutate(random, text);
  if (random.chance(10)) text = mutate(random, text);
  return text;
}
