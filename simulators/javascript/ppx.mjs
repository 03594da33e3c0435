// PPX for Node.js: serves a model to controllers such as `ppx` and pyprob, draw by draw (PPX 1.0). README.md says how.
// Copy this file beside your model; it needs the npm packages `zeromq` and `flatbuffers`. Messages are written and read
// by hand, from the tables of docs/protocol.md: there is no generated code.

import { AsyncLocalStorage } from "node:async_hooks";
import { createHash } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { Builder } from "flatbuffers";
import { Router } from "zeromq";

const SYSTEM = `ppx.mjs 1.0.0 (Node ${process.versions.node})`;
const MAX_MESSAGE = Number(process.env.PPX_MAX_MESSAGE || 2 ** 26); // bytes: the answer to a draw of eight million numbers
const MAX_SESSIONS = 256; // controllers remembered; few bytes each
const CAPABILITIES = ["observed_value", "error", "rejection", "shutdown"]; // understood beyond PPX 1.0

/** What a model did wrong, with the remedy. */
export class PPXError extends Error { name = "PPXError"; }

/** Ends the running trace. `request`: the Handshake that took the place of an answer, if there is one. */
class EndOfTrace extends Error { request = null; }

// Values: on the wire { data, shape }, in the model a number or a flat array.
const isArray = (value) => Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
const fromTensor = ({ data, shape }) => (shape.length === 0 ? data[0] : data);

function toTensor(value, what) {
  const data = isArray(value) ? Array.from(value) : [value];
  if (data.every((x) => typeof x === "number")) return { data, shape: isArray(value) ? [data.length] : [] };
  throw new PPXError(`${what} is neither a number nor a flat array of numbers`);
}

// Domains of parameters.
const REAL = [Number.isFinite, "finite"];
const ABOVE_LOW = [(x, i, [low]) => Number.isFinite(x) && x > low.data[i], "finite and above low"];
const POSITIVE = [(x) => x > 0 && x < Infinity, "finite and > 0"];
const NOT_NEGATIVE = [(x) => x >= 0 && x < Infinity, "finite and >= 0"];
const UNIT = [(x) => x >= 0 && x <= 1, "in [0, 1]"];
const COUNT = [(x) => x >= 0 && Number.isInteger(x), "a whole number >= 0"];

/** `code family params shape`, `draw(i)` of element i, `kinds`: how many values a discrete family has, else null. */
class Distribution {}
const distribution = (fields) => Object.freeze(Object.assign(new Distribution(), fields));

/** A family of scalars. Array parameters make an array of independent elements; numbers hold for all of them. */
function define(code, family, domains, sampler, kinds = null) {
  const names = Object.keys(domains);
  return (...values) => {
    if (values.length !== names.length) throw new PPXError(`${family} takes ${names.join(" and ")}`);
    const given = values.map((value, k) => toTensor(value, `${family}: ${names[k]}`));
    const { shape, data } = given.find((tensor) => tensor.shape.length > 0) ?? given[0];
    const params = given.map((p) => (p.shape.length > 0 ? p : { data: Array(data.length).fill(p.data[0]), shape }));
    params.forEach((p, k) => {
      const [legal, text] = domains[names[k]];
      if (p.data.length !== data.length) throw new PPXError(`${family}: arrays of ${data.length} and ${p.data.length}`);
      const wrong = p.data.findIndex((x, i) => !legal(x, i, params));
      if (wrong >= 0) throw new PPXError(`${family}: ${names[k]} = ${p.data[wrong]}, but it must be ${text}`);
    });
    return distribution({ code, family, params, shape, kinds, draw: (i) => sampler(...params.map((p) => p.data[i])) });
  };
}

export const Normal = define(1, "Normal", { mean: REAL, stddev: POSITIVE }, (mean, sd) => mean + sd * normal());
export const Uniform = define(2, "Uniform", { low: REAL, high: ABOVE_LOW }, (a, b) => a + (b - a) * random());
export const Poisson = define(4, "Poisson", { rate: NOT_NEGATIVE }, poisson, Infinity);
export const Bernoulli = define(5, "Bernoulli", { probs: UNIT }, (p) => binomial(1, p), Infinity);
export const Beta = define(6, "Beta", { concentration1: POSITIVE, concentration0: POSITIVE }, (a, b) => beta(a, b));
export const Exponential = define(7, "Exponential", { rate: POSITIVE }, (rate) => exponential() / rate);
export const Gamma = define(8, "Gamma", { concentration: POSITIVE, rate: POSITIVE }, (a, b) => Math.exp(logGamma(a)) / b);
export const LogNormal = define(9, "LogNormal", { loc: REAL, scale: POSITIVE }, (m, s) => Math.exp(m + s * normal()));
export const Binomial = define(10, "Binomial", { total_count: COUNT, probs: UNIT }, binomial, Infinity);
export const Weibull = define(11, "Weibull", { scale: POSITIVE, concentration: POSITIVE }, (s, c) => s * exponential() ** (1 / c));

/** An index 0 to C - 1, by C probabilities, which are divided by their sum. */
export function Categorical(probs) {
  const tensor = toTensor(probs, "Categorical: probs");
  const sum = tensor.data.reduce((total, p) => total + p, 0);
  if (tensor.shape.length === 0 || !tensor.data.every((p) => p >= 0) || !(sum > 0 && sum < Infinity))
    throw new PPXError(`Categorical: probs = ${probs}, but it must be an array of numbers >= 0 with a finite sum > 0`);
  const draw = () => {
    let left = random() * sum;
    const found = tensor.data.findIndex((p) => (left -= p) < 0);
    return found >= 0 ? found : tensor.data.findLastIndex((p) => p > 0); // rounding
  };
  return distribution({ code: 3, family: "Categorical", params: [tensor], shape: [], kinds: tensor.data.length, draw });
}

// Random numbers, of runs without a controller.
const random = () => 1 - Math.random(); // never 0
const exponential = () => -Math.log(random());
const normal = () => Math.sqrt(2 * exponential()) * Math.cos(2 * Math.PI * random()); // Box and Muller 1958
const beta = (a, b) => 1 / (1 + Math.exp(logGamma(b) - logGamma(a)));

/** Logarithm of a draw from Gamma(a, 1), which itself would vanish for small a. Marsaglia and Tsang 2000. */
function logGamma(a) {
  if (a < 1) return logGamma(a + 1) - exponential() / a;
  const d = a - 1 / 3;
  for (;;) {
    const x = normal();
    const v = (1 + x / Math.sqrt(9 * d)) ** 3;
    if (v > 0 && Math.log(random()) < (x * x) / 2 + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}

function poisson(rate, count = 0) {
  for (let time = exponential(); time < rate; time += exponential()) count++;
  return count;
}

function binomial(n, p, count = 0) {
  for (; n > 0; n--) if (random() <= p) count++;
  return count;
}

// Codes of messages, and those that controllers send.
const [HANDSHAKE, HANDSHAKE_RESULT, RUN, RUN_RESULT, SAMPLE, SAMPLE_RESULT] = [1, 2, 3, 4, 5, 6];
const [OBSERVE, OBSERVE_RESULT, TAG, TAG_RESULT, RESET, ERROR] = [7, 8, 9, 10, 11, 12];
const [REJECTION, REJECTION_RESULT, SHUTDOWN, SHUTDOWN_RESULT] = [15, 16, 17, 18];
const RECEIVED = Object.fromEntries([[HANDSHAKE, "Handshake"], [RUN, "Run"], [SAMPLE_RESULT, "SampleResult"],
  [OBSERVE_RESULT, "ObserveResult"], [TAG_RESULT, "TagResult"], [RESET, "Reset"],
  [REJECTION_RESULT, "RejectionResult"], [SHUTDOWN, "Shutdown"]]);

/** Writes a table. A field is a byte, null if absent, a string, { strings }, { data, shape }, or a table: an array. */
function table(builder, fields) {
  const places = fields.map((field) => (field === null || typeof field === "number" ? 0 : refer(builder, field)));
  builder.startObject(fields.length);
  fields.forEach((field, slot) => {
    if (typeof field === "number") builder.addFieldInt8(slot, field, -1); // -1: write it even if it is the default
    else if (field !== null) builder.addFieldOffset(slot, places[slot], 0);
  });
  return builder.endObject();
}

function refer(builder, field) {
  if (typeof field === "string") return builder.createString(field);
  if (Array.isArray(field)) return table(builder, field);
  if (field.strings) return vector(builder, field.strings.map((each) => builder.createString(each)), 4, "addOffset");
  const parts = [vector(builder, field.data, 8, "addFloat64"), vector(builder, field.shape, 4, "addInt32")];
  builder.startObject(2); // with both vectors, even if they are empty: PPX 1.0 readers look at them unasked
  parts.forEach((place, slot) => builder.addFieldOffset(slot, place, 0));
  return builder.endObject();
}

function vector(builder, values, bytes, add) {
  builder.startVector(bytes, values.length, bytes);
  for (let i = values.length - 1; i >= 0; i--) builder[add](values[i]);
  return builder.endVector();
}

function message(body, ...fields) {
  const builder = new Builder(256);
  builder.finish(table(builder, [body, fields]));
  return builder.asUint8Array();
}

/** Reads tables. The DataView throws RangeError for what lies outside the message. */
class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  /** Position of a field of the table at `at`, 0 if it is absent. */
  field(at, slot) {
    const vtable = at - this.view.getInt32(at, true);
    if (this.view.getUint16(vtable, true) < 6 + 2 * slot) return 0;
    const offset = this.view.getUint16(vtable + 4 + 2 * slot, true);
    return offset && at + offset;
  }
  /** Position of what the reference at `at` refers to. */
  follow = (at) => at && at + this.view.getUint32(at, true);
  /** Position of the first element of a vector, and their number. */
  vector(start, bytes) {
    const length = start && this.view.getUint32(start, true);
    if (start + 4 + length * bytes > this.bytes.length) throw new RangeError("a vector is longer than the message");
    return [start + 4, length];
  }
  /** What `read` makes of the elements of the vector in a field, as far as they are not too many. */
  list(at, slot, bytes, most, read) {
    const [first, length] = this.vector(this.follow(this.field(at, slot)), bytes);
    return Array.from({ length: Math.min(length, most) }, (_, i) => read(first + i * bytes));
  }
  tensor(at, slot) {
    const tensor = this.follow(this.field(at, slot));
    if (tensor === 0) return null;
    const data = this.list(tensor, 0, 8, Infinity, (each) => this.view.getFloat64(each, true));
    const shape = this.list(tensor, 1, 4, 33, (each) => this.view.getInt32(each, true));
    if (shape.length === 0) return { data, shape: data.length === 1 ? [] : [data.length] };
    if (shape.length > 32 || shape.some((n) => n < 0) || shape.reduce((product, n) => product * n) !== data.length)
      throw new RangeError(`${data.length} numbers of shape [${shape}]`);
    return { data, shape };
  }
  strings(at, slot) {
    const decoder = new TextDecoder("utf-8", { fatal: true }); // throws TypeError
    return this.list(at, slot, 4, 32, (each) => {
      const [first, length] = this.vector(this.follow(each), 1);
      return decoder.decode(this.bytes.subarray(first, first + length));
    });
  }
}

/** A controller's message: its body, and what that carries; or `fault`, why it is none. */
function decode(frames) {
  try {
    if (frames.length !== 1) throw new RangeError(`${frames.length} frames`);
    const reader = new Reader(frames[0]);
    const root = reader.view.getUint32(0, true);
    const type = reader.field(root, 0);
    const body = type && reader.view.getUint8(type);
    const content = reader.follow(reader.field(root, 1));
    if (!content || !(body in RECEIVED)) throw new RangeError(`a body of type ${body}, which is not to come here`);
    reader.field(content, 0); // whether it is a table at all
    if (body === HANDSHAKE) return { body, capabilities: reader.strings(content, 1) };
    return { body, value: body === SAMPLE_RESULT || body === OBSERVE_RESULT ? reader.tensor(content, 0) : null };
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    return { body: 0, fault: `these bytes are no message of PPX: ${error.message}` };
  }
}

const context = new AsyncLocalStorage(); // { trace, prefix } of the code that runs

/** What a statement needs, checked at once: errors are thrown, even if the model does not await the statement. */
function statement(name, distribution) {
  if (typeof name !== "string" || name === "") throw new PPXError(`name = ${String(name)}: give every statement a name`);
  if (distribution !== undefined && !(distribution instanceof Distribution))
    throw new PPXError(`${name}: this is no distribution; write e.g. ppx.Normal(0, 1)`);
  const { trace, prefix = "" } = context.getStore() ?? {};
  return { trace, address: prefix + name };
}

const filled = ({ shape }, at) => fromTensor({ data: Array.from({ length: shape[0] ?? 1 }, (_, i) => at(i)), shape });

/** Makes a random choice; `control: false` leaves it to the prior. Without a controller it is a draw. */
export function sample(distribution, name, { control = true } = {}) {
  const { trace, address } = statement(name, distribution);
  if (!trace) return Promise.resolve(filled(distribution, distribution.draw));
  const asked = message(SAMPLE, address, name, distribution.code, distribution.params, control ? 1 : 0);
  return trace.ask(address, asked, SAMPLE_RESULT, (value) => trace.accept(value, distribution, address));
}

/** States a measurement: `value`, or what the controller has under this name. Resolves to what is observed; to NaN if
 * a PPX 1.0 controller keeps that for itself. */
export function observe(distribution, name, value = null) {
  const { trace, address } = statement(name, distribution);
  const given = value === null ? null : toTensor(value, `the observed value at ${address}`);
  if (given && (`${given.shape}` !== `${distribution.shape}` || given.data.some(Number.isNaN)))
    throw new PPXError(`the observed value at ${address} must have the shape [${distribution.shape}] and no NaN`);
  if (!trace) return Promise.resolve(value ?? filled(distribution, distribution.draw));
  const asked = message(OBSERVE, address, name, distribution.code, distribution.params, given);
  return trace.ask(address, asked, OBSERVE_RESULT, (observed) => {
    const due = observed || (!given && trace.capabilities.includes("observed_value"));
    return due ? trace.accept(observed, distribution, address) : (value ?? filled(distribution, () => NaN));
  });
}

/** Reports a quantity that the model computed: a number or an array. */
export function tag(value, name) {
  const { trace, address } = statement(name);
  const tensor = toTensor(value, `the tag ${address}`);
  return trace ? trace.ask(address, message(TAG, address, name, tensor), TAG_RESULT) : Promise.resolve();
}

/** Puts a name in front of the addresses in `body`: `await ppx.scope("tracker", async () => { ... })`. */
export function scope(name, body) {
  const { trace, address } = statement(name);
  return context.run({ trace, prefix: `${address}/` }, body);
}

/** Marks a loop that draws until something is accepted: `await ppx.rejection("positive", async () => { ... })`. */
export async function rejection(name, body) {
  const { trace, address } = statement(name);
  if (!trace?.capabilities.includes("rejection")) return body();
  const mark = (begin) => trace.ask(address, message(REJECTION, address, name, begin), REJECTION_RESULT);
  await mark(1);
  try {
    return await body();
  } finally {
    if (!trace.end) await mark(0);
  }
}

/** One execution of the model for a controller. */
class Trace {
  end = null; // why the controller's side ended it
  open = null; // { address, answer } of the statement that waits
  constructor(server, sender, capabilities) {
    Object.assign(this, { server, sender, capabilities });
  }
  ask(address, bytes, due, accept = () => undefined) {
    if (this.open) this.end ??= new EndOfTrace(`${address} came before ${this.open.address} had its answer: use await`);
    if (this.end) throw this.end;
    const answer = this.exchange(bytes, due).then(accept);
    answer.catch(() => {}); // a model that does not await it must not end the process
    this.open = { address, answer };
    return answer;
  }
  async exchange(bytes, due) {
    try {
      const request = await this.server.exchange(this.sender, bytes);
      if (request.body === due) return request.value;
      if (request.fault) throw new EndOfTrace(request.fault);
      const abandoned = request.body === HANDSHAKE || request.body === RESET;
      const end = new EndOfTrace(`the controller sent ${RECEIVED[request.body]} where ${RECEIVED[due]} was due`);
      throw Object.assign(end, { request: abandoned ? request : null });
    } catch (error) {
      throw (this.end ??= error);
    } finally {
      this.open = null;
    }
  }
  /** The controller's value, if the model can have drawn it. */
  accept(value, { family, shape, kinds }, address) {
    const { data, shape: sent } = value ?? { data: [], shape: [0] };
    const legal = (x) => Number.isFinite(x) && (kinds === null || (Number.isInteger(x) && x >= 0 && x < kinds));
    if (data.length === (shape[0] ?? 1) && sent.length <= 1 && data.every(legal)) return fromTensor({ data, shape });
    const needed = `shape [${shape}], ${kinds === null ? "finite" : `whole, >= 0 and < ${kinds}`}`;
    const got = `${data.slice(0, 9).join() || "no value"} of shape [${sent}]`;
    throw (this.end = new EndOfTrace(`the controller sent ${got} for ${address} (${family}); it must be: ${needed}`));
  }
}

/** What went wrong, and where in the model: file without its folder, line, function. */
function describe(error) {
  if (!(error instanceof Error) || error instanceof EndOfTrace) return error?.message ?? String(error);
  const outside = (line) => /^ +at .*:\d+:\d+\)?$/.test(line) && !line.includes(import.meta.url);
  const frame = error.stack?.split("\n").find(outside) ?? "";
  const [, where, file] = frame.match(/at (?:async )?(?:(.+) \()?.*?([^/\\]+:\d+):\d+\)?$/) ?? [];
  return `${error.name}: ${error.message}${file ? ` (${file}${where ? ` in ${where}` : ""})` : ""}`;
}

class Server {
  sessions = new Map(); // capabilities by controller, least recently heard of first
  running = false; // the model
  interrupt = () => {}; // ends the wait for it
  constructor(forward, name, fingerprint) {
    Object.assign(this, { forward, name, fingerprint });
    // High-water marks: a controller that floods, or does not read its answers, takes memory for a few messages only.
    const limits = { maxMessageSize: MAX_MESSAGE, receiveHighWaterMark: 2, sendHighWaterMark: 16 };
    this.socket = new Router({ linger: 100, ...limits });
  }
  /** Whoever waits for the socket or for the model gets an error, which leads to the end of `serve`. */
  stop() {
    this.socket.close();
    this.interrupt(new Error("the simulator was told to end"));
  }
  /** The next message, and who sent it. */
  async receive() {
    for (;;) {
      const [sender, empty, ...frames] = await this.socket.receive();
      // Without an empty frame there is no envelope of a REQ: a REP would be silent, too.
      if (empty?.length === 0 && frames.length > 0) return { sender: sender.toString("latin1"), ...decode(frames) };
    }
  }
  send(sender, bytes) {
    return this.socket.send([Buffer.from(sender, "latin1"), null, bytes]);
  }
  /** Error for a controller that knows it, else Reset, and the reason here. */
  refuse(sender, reason) {
    if (this.sessions.get(sender)?.includes("error")) return this.send(sender, message(ERROR, reason));
    process.stderr.write(`${this.name}: ${reason}\n`);
    return this.send(sender, message(RESET));
  }
  /** Sends a message of a trace; returns the answer, or the Handshake of whoever takes its place. */
  async exchange(sender, bytes) {
    await this.send(sender, bytes);
    for (;;) {
      const request = await this.receive();
      if (request.sender === sender || request.body === HANDSHAKE) return request;
      await this.refuse(request.sender, "busy with a trace of another controller; send a Handshake to take over");
    }
  }
  /** Answers a request between traces; returns the one that took the place of an answer within a trace. */
  async answer({ sender, body, capabilities, fault }) {
    if (fault) return this.refuse(sender, fault);
    const session = body === HANDSHAKE ? capabilities : this.sessions.get(sender);
    if (!session) return this.refuse(sender, `${RECEIVED[body]} came before Handshake; was the simulator restarted?`);
    this.sessions.delete(sender);
    this.sessions.set(sender, session);
    if (this.sessions.size > MAX_SESSIONS) this.sessions.delete(this.sessions.keys().next().value);
    if (body === RUN) return this.run(sender, session);
    if (body === HANDSHAKE) {
      const own = CAPABILITIES.filter((name) => name !== "shutdown" || this.isPrivate());
      const additions = session.length > 0 ? [{ strings: own }, this.fingerprint] : [];
      return this.send(sender, message(HANDSHAKE_RESULT, SYSTEM, this.name, ...additions));
    }
    if (body !== SHUTDOWN) return this.refuse(sender, `${RECEIVED[body]} came between traces, where Run is due`);
    if (!this.isPrivate()) return this.refuse(sender, "on a network, a simulator is ended by its owner only, by SIGTERM");
    await this.send(sender, message(SHUTDOWN_RESULT));
    return this.stop();
  }
  /** Whether the file system says who may connect: elsewhere, whoever comes by could end the process. */
  isPrivate() {
    return this.socket.lastEndpoint.startsWith("ipc://");
  }
  async run(sender, capabilities) {
    const { forward } = this;
    const trace = new Trace(this, sender, capabilities);
    let [result, failure, open] = [null, null, null];
    this.running = true;
    const stopped = new Promise((_, reject) => (this.interrupt = reject));
    const model = context.run({ trace }, async () => {
      try {
        return await forward();
      } finally {
        open = trace.open; // looked at now: its answer may be here any moment
        this.running = false;
      }
    });
    try {
      const returned = await Promise.race([stopped, model]);
      if (returned !== undefined && returned !== null) result = toTensor(returned, "the result of the model");
    } catch (error) {
      failure = { error };
    }
    if (open) {
      failure ??= { error: new EndOfTrace(`the model returned before ${open.address} had its answer: use await`) };
      await open.answer.catch(() => {});
    }
    const { end } = trace;
    trace.end = new EndOfTrace("a statement came after the model had returned: use await");
    if (end?.request) return end.request;
    if (end || failure) return this.refuse(sender, describe(end ?? failure.error));
    return this.send(sender, message(RUN_RESULT, result));
  }
}

/** Serves a model until SIGTERM, Ctrl-C or a controller's Shutdown. An exception in the model ends its trace only.
 *
 * `forward`: an async function without parameters; it returns nothing, a number or an array of numbers. `name`: of the
 * model. `bind`: ZeroMQ endpoint, by default the environment variable PPX_BIND, by default one for this machine only.
 * `fingerprint`: text that changes whenever the model does, by default a hash of the program's file. */
export async function serve(forward, { name, bind, fingerprint = hashOf(process.argv[1]) } = {}) {
  if (typeof forward !== "function" || forward.length > 0 || typeof name !== "string" || name === "")
    throw new PPXError("serve(forward, { name }): give a function without parameters, and a name of the model");
  const endpoint = bind ?? (process.env.PPX_BIND || "tcp://127.0.0.1:5555");
  if (!(Number.isInteger(MAX_MESSAGE) && MAX_MESSAGE >= 2 ** 16 && MAX_MESSAGE <= 2 ** 30))
    throw new PPXError(`PPX_MAX_MESSAGE=${process.env.PPX_MAX_MESSAGE} is no number of bytes from ${2 ** 16} to ${2 ** 30}`);
  const server = new Server(forward, name, fingerprint);
  const stop = () => server.stop();
  try {
    await server.socket.bind(endpoint);
  } catch (error) {
    server.socket.close();
    throw new PPXError(`${name} cannot bind ${endpoint}: ${error.message}; choose another endpoint by PPX_BIND`);
  }
  for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, stop);
  const { lastEndpoint } = server.socket;
  process.stderr.write(`${name}: serving PPX at ${lastEndpoint}\n`);
  if (!/^(ipc:|inproc:|tcp:\/\/127\.|tcp:\/\/\[::1\])/.test(lastEndpoint))
    process.stderr.write(`${name}: anyone who can reach ${lastEndpoint} can run this model, read its results, and keep it from ` +
      "others; there is no password and no encryption: bind to 127.0.0.1 or ipc://, or use a private network\n");
  try {
    for (let next; ; ) next = await server.answer(next ?? (await server.receive()));
  } catch (error) {
    if (!server.socket.closed) throw error;
  } finally {
    for (const signal of ["SIGTERM", "SIGINT"]) process.removeListener(signal, stop);
    server.socket.close();
    if (endpoint.startsWith("ipc:///")) rmSync(endpoint.slice("ipc://".length), { force: true }); // ZeroMQ leaves it
  }
  if (server.running) process.exit(0); // what the model waits for would keep the process alive
}

const hashOf = (file) => (file ? createHash("sha256").update(readFileSync(file)).digest("hex").slice(0, 32) : "");
