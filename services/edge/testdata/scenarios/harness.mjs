// What the scenarios are written with: an edge of their own, origins and
// clients that speak bytes.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Waits for `condition()` to hold; its value, or an error that says `what`.
export async function until(condition, what, ms = 5000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`timed out: ${what}`);
    await sleep(5);
  }
}

export function check(condition, message) {
  if (!condition) throw new Error(message);
}

export function equal(got, want, what = 'value') {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
  if (a !== b) throw new Error(`${what}: got ${a}, want ${b}`);
}

// An origin: `serve(connection, text)` is called with each piece that arrives;
// connection.all is everything so far.
export async function origin(serve, options = {}) {
  const connections = [];
  const server = net.createServer({ allowHalfOpen: true, ...options }, (socket) => {
    socket.setNoDelay();
    const connection = { socket, all: '', ended: false, closed: false, number: connections.length };
    connections.push(connection);
    socket.on('error', () => {});
    socket.on('end', () => {
      connection.ended = true;
      socket.end();
    });
    socket.on('close', () => (connection.closed = true));
    socket.on('data', (data) => {
      const text = data.toString('latin1');
      connection.all += text;
      serve(connection, text);
    });
  });
  await new Promise((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));
  const port = server.address().port;
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    connections,
    get all() {
      return connections.map((c) => c.all).join('');
    },
    requests() {
      return (this.all.match(/^[A-Z]+ \S+ HTTP\/1\.1\r$/gm) ?? []).length;
    },
    close() {
      server.close();
      for (const c of connections) c.socket.destroy();
    },
  };
}

// An origin that answers each head (bodies are not looked at) with `response`.
export function answering(response, options) {
  return origin((c, text) => {
    const heads = text.split('\r\n\r\n').length - 1;
    for (let i = 0; i < heads; ++i) {
      c.socket.write(typeof response === 'function' ? response(c) : response, 'latin1');
    }
  }, options);
}

export const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
export const get = (target = '/app/x', fields = '') =>
  `GET ${target} HTTP/1.1\r\nHost: e.test\r\n${fields}\r\n`;
export const post = (fields, body = '', target = '/app/x') =>
  `POST ${target} HTTP/1.1\r\nHost: e.test\r\n${fields}\r\n${body}`;

// A client's connection.
export async function client(edge, options = {}) {
  const socket = net.connect({ port: edge.port, host: '127.0.0.1', allowHalfOpen: true, ...options });
  const c = {
    socket,
    got: '',
    ended: false,
    closed: false,
    reset: false,
    write(text) {
      socket.write(Buffer.from(text, 'latin1'));
      return c;
    },
    until: (pattern, ms) =>
      until(() => pattern.exec(c.got), `${pattern} in ${JSON.stringify(c.got.slice(-300))}`, ms),
    untilEnd: (ms) => until(() => c.ended || c.closed, 'end of the connection', ms),
    statuses: () => (c.got.match(/HTTP\/1\.1 \d{3} /g) ?? []).map((s) => Number(s.slice(9, 12))),
  };
  socket.setNoDelay();
  socket.on('data', (data) => (c.got += data.toString('latin1')));
  socket.on('end', () => (c.ended = true));
  socket.on('error', () => (c.reset = true));
  socket.on('close', () => (c.closed = true));
  await new Promise((resolve, reject) => {
    socket.on('connect', resolve);
    socket.on('error', reject);
  });
  return c;
}

// One request on a connection of its own; what came back until it ended or a
// whole response was there.
export async function ask(edge, request, ms) {
  const c = await client(edge);
  c.write(request);
  await until(() => {
    if (c.ended || c.closed) return true;
    const head = c.got.indexOf('\r\n\r\n');
    if (head < 0) return false;
    const length = /^content-length: *(\d+)/im.exec(c.got.slice(0, head));
    return length && c.got.length >= head + 4 + Number(length[1]);
  }, `a response, got ${JSON.stringify(c.got.slice(0, 200))}`, ms);
  c.socket.destroy();
  return c.got;
}

export const statusOf = (response) => Number(/^HTTP\/1\.1 (\d{3})/.exec(response)?.[1] ?? 0);
export const reasonOf = (response) => /^x-mycelium-reason: (\S+)\r$/im.exec(response)?.[1];

// An edge that routes `endpoints`, {app: [url...]}.
export async function startEdge(binary, endpoints, flags = []) {
  const directory = fs.mkdtempSync(path.join(process.env.TEST_TMPDIR ?? os.tmpdir(), 'edge-'));
  const list = Object.entries(endpoints).flatMap(([app, urls]) =>
    urls.length ? urls.map((url) => `${app}=${url}`) : [`${app}=`]);
  const log = path.join(directory, 'access.log');
  const child = spawn(binary, [
    '--listen=127.0.0.1:0', `--port_file=${directory}/port`, '--workers=1',
    `--static_endpoints=${list.join(',')}`, `--access_log=${log}`, ...flags,
  ], { stdio: ['ignore', 'inherit', 'pipe'] });
  const edge = { child, directory, pid: child.pid, stderr: '', exit: null };
  child.stderr.on('data', (data) => (edge.stderr += data));
  child.on('exit', (code, signal) => (edge.exit = signal ?? code));
  await until(() => edge.exit !== null || fs.existsSync(`${directory}/port`), 'the edge to listen');
  if (edge.exit !== null) throw new Error(`the edge ended: ${edge.stderr}`);
  edge.port = Number(fs.readFileSync(`${directory}/port`, 'utf8').trim().split(':').pop());
  edge.lines = () => {
    if (!fs.existsSync(log)) return [];
    return fs.readFileSync(log, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));
  };
  edge.line = (test) => until(() => edge.lines().find(test), 'a line of the access log');
  edge.rss = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]);
  edge.cpu = () => {
    const fields = fs.readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return Number(fields[11]) + Number(fields[12]);
  };
  edge.metric = async (name) => {
    const page = await ask(edge, get('/_mesh/metrics'));
    const line = page.split('\n').find((l) => l.startsWith(`${name} `) || l.startsWith(`${name}{`));
    return line === undefined ? undefined : Number(line.split(' ').pop());
  };
  edge.stop = async () => {
    if (edge.exit === null) {
      child.kill('SIGTERM');
      await until(() => edge.exit !== null, 'the edge to stop', 15000).catch(() => child.kill('SIGKILL'));
    }
    fs.rmSync(directory, { recursive: true, force: true });
  };
  return edge;
}
