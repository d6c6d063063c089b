// The independent parser: llhttp, which is inside Node, with nothing lenient.
import { createRequire } from 'node:module';

const { HTTPParser, methods } = createRequire(import.meta.url)('_http_common');

// An extension method is valid HTTP, but llhttp knows a list only.
export const knownMethods = new Set(methods);

const MAX_HEAD_BYTES = 64 * 1024;

const pairs = (list) => {
  const out = [];
  for (let i = 0; i < list.length; i += 2) out.push(list[i], list[i + 1]);
  return out;
};

// Reads one stream of messages, a byte at a time, so that it is known exactly
// where each of them ends.
export class StrictStream {
  // `kind`: 'Q' requests, 'R' responses to GET, 'H' responses to HEAD.
  constructor(kind) {
    this.kind = kind;
    this.messages = [];
    this.verdict = 'clean'; // or incomplete, error, close, upgrade
    this.error = '';
    this.at = 0;
    this.parser = new HTTPParser();
    this.parser.initialize(kind === 'Q' ? HTTPParser.REQUEST : HTTPParser.RESPONSE, {}, MAX_HEAD_BYTES, HTTPParser.kLenientNone);
    this.parser.maxHeaderPairs = 0;
    this.begin();
    this.parser[HTTPParser.kOnMessageBegin] = () => { this.started = true; };
    this.parser[HTTPParser.kOnHeaders] = (fields, url) => {
      (this.message.head ? this.message.trailers : this.message.fields).push(...pairs(fields));
      // With trailers Node gives the target once more.
      if (!this.message.head) this.message.target += url ?? '';
    };
    this.parser[HTTPParser.kOnHeadersComplete] = (major, minor, fields, method, url, status, text, upgrade, keepAlive) => {
      const message = this.message;
      if (fields !== undefined) message.fields.push(...pairs(fields));
      message.target += url ?? '';
      message.method = kind === 'Q' ? methods[method] : '';
      message.status = status ?? 0;
      message.version = `${major}.${minor}`;
      message.head = true;
      message.upgrade = Boolean(upgrade) || message.status === 101;
      message.close = !keepAlive;
      // Node's client says the same of these; llhttp before 9 does not know it.
      const bodiless = kind === 'H' || status === 204 || status === 304 || (status >= 100 && status < 200 && status !== 101);
      return bodiless ? 1 : 0;
    };
    this.parser[HTTPParser.kOnBody] = (piece) => { this.message.body.push(Buffer.from(piece)); };
    this.parser[HTTPParser.kOnMessageComplete] = () => { this.completed = true; };
  }

  begin() {
    this.message = { method: '', target: '', status: 0, fields: [], trailers: [], body: [], head: false };
    this.started = this.completed = false;
  }

  complete() {
    const message = this.message;
    message.end = this.at;
    message.body = Buffer.concat(message.body).toString('latin1');
    this.messages.push(message);
    this.begin();
    if (message.upgrade) this.verdict = 'upgrade';
    else if (message.close) this.verdict = 'close';
  }

  // Whether more may follow.
  feed(bytes) {
    for (let i = 0; i < bytes.length && this.verdict === 'clean'; ++i) {
      const done = this.parser.execute(bytes.subarray(i, i + 1));
      ++this.at;
      if (done instanceof Error) {
        this.verdict = 'error';
        this.error = `${done.code} ${done.reason ?? ''}`.trim();
      } else if (this.completed) {
        this.complete();
      }
    }
    return this.verdict === 'clean';
  }

  // The stream is over.
  finish() {
    if (this.verdict === 'clean' && (this.started || this.message.head)) {
      const ended = this.parser.finish();
      if (!(ended instanceof Error) && this.completed) this.complete();
      else this.verdict = 'incomplete';
    }
    this.parser.close?.();
    return this;
  }
}

export function strictParse(kind, bytes) {
  const stream = new StrictStream(kind);
  stream.feed(bytes);
  return stream.finish();
}
