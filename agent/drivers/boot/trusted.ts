/**
 * The rack agent's side of the trusted image: who has booted it, what it is to do, and what it found. HTTP, over the control port.
 *
 * Invariants:
 * 1. A boot is known by an id and a token that the boot server handed to this one start of this one node; every message carries a
 *    MAC under the token. A later start of the node ends the earlier one: its jobs are rejected, its messages refused.
 * 2. A disk counts as wiped only when this boot reported it in the newest wipe, and only if the boot had named it when it came up.
 * 3. What a machine sends is bounded in size and number, and only kept where it has the form of the protocol.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Attestation } from '../../../controller/api/protocol.generated.ts';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { Erase, VmmReading } from '../port.ts';
import { type Baseline, type Facts, misses, readFacts } from './trusted-facts.ts';

export interface TrustedBootsOptions {
  readonly clock: Clock;
  /** The operating system's: tokens come of it. */
  readonly random: Random;
  /** After a reading of the node changed. */
  readonly onChange: (node: string) => void;
}

export interface TrustedStart {
  /** For the kernel's command line, besides the address of the agent (`bitvisor.agent=http://HOST:PORT/trusted`). */
  readonly kernelArguments: readonly string[];
  readonly bootId: string;
}

interface Job {
  readonly id: number;
  readonly text: string;
  readonly lines: string[];
  onLine(key: string, value: string): void;
  finish(error?: Error): void;
}

interface Boot {
  readonly node: string;
  readonly bootId: string;
  readonly token: Buffer;
  facts?: Facts;
  nonce: string;
  attestation?: Attestation;
  wiped: string[];
  checked: boolean;
  lastJob: number;
  job?: Job;
  /** Ends the long poll that waits for a job. */
  answer?: () => void;
}

/** An event log of 64 KiB in base64, and some. */
const largestBodyBytes = 192 << 10;
const mostLines = 256;
const pollMs = 20_000;
const nothingUp: VmmReading['trusted'] = { up: false, nonce: '', wiped: [], checked: false };

export class TrustedBoots {
  readonly #options: TrustedBootsOptions;
  readonly #byId = new Map<string, Boot>();
  readonly #byNode = new Map<string, Boot>();

  constructor(options: TrustedBootsOptions) {
    this.#options = options;
  }

  /** The boot server hands the trusted image to this node, now. */
  begin(node: string): TrustedStart {
    this.end(node);
    const { random } = this.#options;
    const token = `${random.uuid()}${random.uuid()}`.replaceAll('-', '');
    const boot: Boot = {
      node,
      bootId: random.uuid(),
      token: Buffer.from(token, 'hex'),
      nonce: '',
      wiped: [],
      checked: false,
      lastJob: 0,
    };
    this.#byId.set(boot.bootId, boot);
    this.#byNode.set(node, boot);
    return { bootId: boot.bootId, kernelArguments: [`bitvisor.boot=${boot.bootId}`, `bitvisor.token=${token}`] };
  }

  /** The node was switched off, reset or boots something else: what it booted counts no more. */
  end(node: string): void {
    const boot = this.#byNode.get(node);
    if (boot === undefined) return;
    this.#byNode.delete(node);
    this.#byId.delete(boot.bootId);
    boot.job?.finish(new Error('the trusted boot ended'));
    boot.answer?.();
    this.#options.onChange(node);
  }

  read(node: string): VmmReading['trusted'] {
    const boot = this.#byNode.get(node);
    if (boot?.facts === undefined) return nothingUp;
    const { nonce, attestation, wiped, checked } = boot;
    return { up: true, nonce, ...(attestation === undefined ? {} : { attestation }), wiped, checked };
  }

  /** What the machine said of itself when the trusted image came up. */
  facts(node: string): Facts | undefined {
    return this.#byNode.get(node)?.facts;
  }

  /**
   * Proof that the boot which got the token answers now: no proof of what it runs. For that, see agent/attestation.
   * Rejects when the boot ends first.
   */
  async attest(node: string, nonce: string): Promise<void> {
    const boot = this.#up(node);
    let echoed = '';
    await this.#run(boot, 'attest', [`nonce=${nonce}`], (key, value) => {
      if (key === 'nonce') echoed = value;
    });
    if (echoed !== nonce) throw new Error('the trusted image answered another nonce');
    this.attested(node, { nonce, bootId: boot.bootId, attestation: { method: 'Token' } });
  }

  /**
   * A verified answer to the nonce: wiped and checked start anew.
   * @param answer `bootId` of the boot that gave it; `attestation` by what it was verified. @throws when the node has begun another boot since
   */
  attested(
    node: string,
    {
      nonce,
      bootId,
      attestation,
    }: { readonly nonce: string; readonly bootId: string; readonly attestation: Attestation },
  ): void {
    const boot = this.#up(node);
    if (boot.bootId !== bootId) throw new Error('the machine started anew while it was attested');
    boot.nonce = nonce;
    boot.attestation = attestation;
    boot.wiped = [];
    boot.checked = false;
    this.#options.onChange(node);
  }

  /** Resolves once every disk of the machine was wiped and read back; rejects with the disks that were not, and why. */
  async wipe(node: string, erase: Erase): Promise<void> {
    const boot = this.#up(node);
    const named = new Set(boot.facts?.disks.map(({ serial }) => serial));
    boot.wiped = [];
    this.#options.onChange(node);
    const failed: string[] = [];
    await this.#run(boot, 'wipe', [`erase=${erase}`], (key, value) => {
      if (key === 'failed') failed.push(value);
      if (key !== 'wiped' || !named.has(value) || boot.wiped.includes(value)) return;
      boot.wiped = [...boot.wiped, value];
      this.#options.onChange(node);
    });
    if (failed.length > 0) throw new Error(`not wiped: ${failed.join('; ').slice(0, 500)}`);
    const left = [...named].filter((serial) => !boot.wiped.includes(serial));
    if (left.length > 0) throw new Error(`not wiped: ${left.join(', ')}`);
  }

  /**
   * Disks, memory, links against the baseline, read again. Rejects with what is missed.
   * @param proof that who answered is the boot that was attested; comes last, and rejects when it is not
   */
  async check(node: string, baseline: Baseline, proof = async (): Promise<void> => {}): Promise<void> {
    const boot = this.#up(node);
    const failed: string[] = [];
    const lines = await this.#run(boot, 'check', [], (key, value) => {
      if (key === 'failed') failed.push(value);
    });
    const wrong = [...failed, ...misses(readFacts(lines), baseline)];
    if (wrong.length > 0) throw new Error(wrong.join('; ').slice(0, 500));
    await proof();
    if (this.#byNode.get(node) !== boot) throw new Error('the machine started anew while it was checked');
    boot.checked = true;
    this.#options.onChange(node);
  }

  /** Carries one command to the machine's TPM and its response back. */
  async tpm(node: string, command: Buffer): Promise<Buffer> {
    return Buffer.from(
      await this.#oneValue(node, 'tpm', [`command=${command.toString('hex')}`], 'response', /^[0-9a-f]*$/),
      'hex',
    );
  }

  /** The firmware's event log, as the kernel keeps it; empty where there is none. */
  async eventLog(node: string): Promise<Buffer> {
    return Buffer.from(await this.#oneValue(node, 'eventlog', [], 'log', /^[A-Za-z0-9+/=]*$/), 'base64');
  }

  async #oneValue(node: string, kind: string, fields: string[], wanted: string, form: RegExp): Promise<string> {
    let found: string | undefined;
    await this.#run(this.#up(node), kind, fields, (key, value) => {
      if (key === wanted && form.test(value)) found = value;
    });
    if (found === undefined) throw new Error(`the trusted image gave no ${wanted}`);
    return found;
  }

  #up(node: string): Boot {
    const boot = this.#byNode.get(node);
    if (boot?.facts === undefined) throw new Error('the trusted image is not running');
    return boot;
  }

  #run(boot: Boot, kind: string, fields: string[], onLine: Job['onLine']): Promise<string[]> {
    if (boot.job !== undefined) return Promise.reject(new Error('the trusted image is busy'));
    boot.lastJob += 1;
    const id = boot.lastJob;
    return new Promise((resolve, reject) => {
      const lines: string[] = [];
      boot.job = {
        id,
        text: `${[`job=${id}`, `kind=${kind}`, ...fields].join('\n')}\n`,
        lines,
        onLine,
        finish(error) {
          delete boot.job;
          if (error === undefined) resolve(lines);
          else reject(error);
        },
      };
      boot.answer?.();
    });
  }

  /** Answers a request below `/trusted/`; false: it is not for here. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<boolean> {
    const [, bootId, path] = /^\/trusted\/([0-9a-f-]{36})(\/[a-z0-9/]{1,40})$/.exec(request.url ?? '') ?? [];
    if (bootId === undefined || path === undefined) return false;
    const boot = this.#byId.get(bootId);
    const body = await readBody(request);
    if (body === undefined) send(response, 413, 'too long\n');
    else if (boot === undefined || !isFrom(boot, request, path, body)) send(response, 403, 'no such boot\n');
    else this.#route(boot, `${request.method} ${path}`, body.toString('latin1'), response);
    return true;
  }

  #route(boot: Boot, what: string, body: string, response: ServerResponse): void {
    const [, polled] = /^GET \/jobs\/(\d{1,9})$/.exec(what) ?? [];
    const [, reported] = /^POST \/results\/(\d{1,9})$/.exec(what) ?? [];
    const lines = body.split('\n').filter((line) => line !== '');
    if (lines.length > mostLines) {
      send(response, 413, 'too many lines\n');
    } else if (what === 'POST /up') {
      boot.facts ??= readFacts(lines);
      send(response, 200, 'welcome\n');
      this.#options.onChange(boot.node);
    } else if (polled !== undefined) {
      this.#poll(boot, Number(polled), response);
    } else if (reported !== undefined) {
      takeResult(boot, Number(reported), lines);
      send(response, 200, 'noted\n');
    } else {
      send(response, 404, 'no such path\n');
    }
  }

  /** Answers with the job after `done`, at once or when there is one; an empty answer says to ask again. */
  #poll(boot: Boot, done: number, response: ServerResponse): void {
    boot.answer?.();
    const answer = (): void => {
      cancel();
      if (boot.answer === answer) delete boot.answer;
      send(response, 200, boot.job !== undefined && boot.job.id > done ? boot.job.text : 'nothing=yet\n');
    };
    const cancel = this.#options.clock.setTimer(pollMs, answer);
    response.once('close', () => {
      cancel();
      if (boot.answer === answer) delete boot.answer;
    });
    if (boot.job !== undefined && boot.job.id > done) answer();
    else boot.answer = answer;
  }
}

/** A result of a job that is over, or never was, changes nothing. */
function takeResult(boot: Boot, id: number, lines: readonly string[]): void {
  for (const line of lines) {
    const { job } = boot;
    if (job?.id !== id) return;
    const [, key = '', value = ''] = /^([a-z-]{1,32})=(.*)$/.exec(line) ?? [];
    if (key === 'done') {
      job.finish();
      return;
    }
    if (key === '' || job.lines.length >= mostLines) continue;
    job.lines.push(line);
    job.onLine(key, value);
  }
}

function isFrom(boot: Boot, request: IncomingMessage, path: string, body: Buffer): boolean {
  const [, given] = /^BitVisor-MAC ([0-9a-f]{64})$/.exec(request.headers.authorization ?? '') ?? [];
  if (given === undefined) return false;
  const expected = createHmac('sha256', boot.token).update(`${request.method} ${path}\n`).update(body).digest();
  return timingSafeEqual(expected, Buffer.from(given, 'hex'));
}

async function readBody(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > largestBodyBytes) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function send(response: ServerResponse, status: number, text: string): void {
  if (response.destroyed || response.writableEnded) return;
  // Every answer ends its connection: a machine whose power is cut leaves nothing behind.
  response.writeHead(status, { 'content-type': 'text/plain', connection: 'close' }).end(text);
}
