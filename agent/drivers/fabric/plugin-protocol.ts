/**
 * What a fabric plug-in is asked and answers (docs/fabric-plugin.md), and the two ways to reach one: a command, or an HTTP service.
 *
 * Invariants:
 * 1. An answer is taken only in the form that the contract gives it, and bounded; all else is a fault of the plug-in.
 * 2. A call that failed may have been carried out: calls can be repeated, and a change is the same change under the same id.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Agent } from 'undici';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Egress } from '../port.ts';

export type PluginCall =
  | { readonly op: 'ports' }
  | {
      readonly op: 'change';
      readonly id: string;
      readonly node: string;
      readonly ports: readonly string[];
      readonly domain: string;
      readonly egress: Egress;
    }
  | { readonly op: 'status'; readonly id: string }
  | { readonly op: 'cancel'; readonly id: string };

export interface PluginPort {
  readonly node: string;
  readonly port: string;
  readonly domain: string;
  readonly egress?: Egress;
}

export interface PluginChange {
  readonly status: 'Pending' | 'Done' | 'Error' | 'Unknown';
  readonly error?: string;
}

/** @throws Error in words when there is no answer, or none that fits the contract */
export interface Plugin {
  ports(): Promise<readonly PluginPort[]>;
  change(call: Exclude<PluginCall, { op: 'ports' }>): Promise<PluginChange>;
  close(): Promise<void>;
}

const largestAnswerBytes = 16 * 2 ** 20;
const mostPorts = 100_000;
const egresses: readonly unknown[] = ['None', 'Shared', 'Internet'];
const statuses: readonly unknown[] = ['Pending', 'Done', 'Error', 'Unknown'];
const isName = (value: unknown, longest: number): value is string =>
  typeof value === 'string' && value.length > 0 && value.length <= longest;
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function portOf(value: unknown): PluginPort {
  const { node, port, domain, egress } = isObject(value) ? value : {};
  const fits =
    isName(node, 253) && isName(port, 64) && isName(domain, 128) && (egress === undefined || egresses.includes(egress));
  if (!fits) throw new Error(`the plug-in reads back a port that is none: ${JSON.stringify(value).slice(0, 120)}`);
  return { node, port, domain, ...(egress === undefined ? {} : { egress: egress as Egress }) };
}

function readPorts(answer: unknown): readonly PluginPort[] {
  const ports = isObject(answer) ? answer.ports : undefined;
  if (!Array.isArray(ports) || ports.length > mostPorts)
    throw new Error('the plug-in answers "ports" without a list of ports');
  return ports.map(portOf);
}

function readChange(answer: unknown): PluginChange {
  const { status, error } = isObject(answer) ? answer : {};
  if (!statuses.includes(status))
    throw new Error('the plug-in answers without a status Pending, Done, Error or Unknown');
  return {
    status: status as PluginChange['status'],
    ...(isName(error, 100_000) ? { error: error.replace(/\s+/g, ' ').slice(0, 300) } : {}),
  };
}

const parse = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error('the plug-in answers no JSON');
  }
};

export interface CommandOptions {
  /** Program and arguments; never through a shell. */
  readonly command: readonly [string, ...string[]];
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/** Each call is a process: the call as JSON on its standard input, the answer as JSON on its standard output. */
export function commandPlugin({ command: [program, ...args], timeoutMs, clock }: CommandOptions): Plugin {
  const call = (request: PluginCall): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const child = spawn(program, args, { stdio: 'pipe' });
      const output = { stdout: '', stderr: '' };
      let late = false;
      const cancel = clock.setTimer(timeoutMs, () => {
        late = true;
        child.kill('SIGKILL');
      });
      for (const stream of ['stdout', 'stderr'] as const) {
        child[stream].setEncoding('utf8').on('data', (text: string) => {
          output[stream] += text;
          if (output[stream].length > largestAnswerBytes) child.kill('SIGKILL');
        });
      }
      child.on('error', (error) => {
        cancel();
        reject(new Error(`the plug-in ${program} could not be run: ${error.message}`));
      });
      child.on('close', (code) => {
        cancel();
        const said = output.stderr.split('\n')[0]?.slice(0, 200) ?? '';
        if (late) reject(new Error(`the plug-in did not end within ${timeoutMs / 1000} s`));
        else if (code !== 0) reject(new Error(`the plug-in ended with ${code}: ${said}`));
        else resolve(output.stdout);
      });
      // A plug-in that needs nothing of its input may end without reading it.
      child.stdin.on('error', () => {});
      child.stdin.end(`${JSON.stringify(request)}\n`);
    }).then((text) => parse(String(text)));
  return {
    ports: async () => readPorts(await call({ op: 'ports' })),
    change: async (request) => readChange(await call(request)),
    close: async () => {},
  };
}

export interface HttpPluginOptions {
  /** http(s)://host[:port][/path]; the contract's paths are below it. */
  readonly url: string;
  /** Certificates that the service's has to be signed by; the system's own when absent. */
  readonly caPem?: string;
  /** File with a token that goes with every call as `Authorization: Bearer`; read for each. */
  readonly tokenFile?: string;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/** GET /v1/ports; PUT, GET and DELETE /v1/changes/ID. */
export function httpPlugin({ url, caPem, tokenFile, timeoutMs, clock }: HttpPluginOptions): Plugin {
  const base = new URL(url.endsWith('/') ? url : `${url}/`);
  const agent = new Agent({ connections: 4, ...(caPem === undefined ? {} : { connect: { ca: caPem } }) });
  const call = async (method: 'GET' | 'PUT' | 'DELETE', path: string, body?: unknown): Promise<[number, unknown]> => {
    const abort = new AbortController();
    const cancel = clock.setTimer(timeoutMs, () => abort.abort(new Error(`no answer within ${timeoutMs / 1000} s`)));
    try {
      const token = tokenFile === undefined ? undefined : readFileSync(tokenFile, 'utf8').trim();
      const response = await agent.request({
        origin: base.origin,
        path: new URL(path, base).pathname,
        method,
        headers: {
          accept: 'application/json',
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: abort.signal,
      });
      let text = '';
      for await (const chunk of response.body) {
        text += String(chunk);
        if (text.length > largestAnswerBytes) throw new Error('the plug-in answers too much');
      }
      return [response.statusCode, text];
    } catch (error) {
      const reason: unknown = abort.signal.aborted ? abort.signal.reason : error;
      throw new Error(
        `the plug-in at ${base.origin} cannot be asked: ${reason instanceof Error ? reason.message : reason}`,
      );
    } finally {
      cancel();
    }
  };
  return {
    async ports() {
      const [status, text] = await call('GET', 'v1/ports');
      if (status !== 200) throw new Error(`the plug-in answers "ports" with HTTP ${status}`);
      return readPorts(parse(String(text)));
    },
    async change(request) {
      const path = `v1/changes/${encodeURIComponent(request.id)}`;
      const { op, id: _id, ...rest } = request;
      const [status, text] = await (op === 'change'
        ? call('PUT', path, rest)
        : call(op === 'cancel' ? 'DELETE' : 'GET', path));
      if (status === 404) return { status: 'Unknown' };
      if (![200, 202, 409, 422].includes(status)) throw new Error(`the plug-in answers "${op}" with HTTP ${status}`);
      const change = readChange(parse(String(text)));
      if (status >= 400 && change.status !== 'Error')
        throw new Error(`the plug-in answers ${change.status} with HTTP ${status}`);
      return change;
    },
    close: () => agent.destroy(),
  };
}
