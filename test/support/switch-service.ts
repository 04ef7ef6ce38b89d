/** A switch controller in memory behind the plug-in contract over HTTP, with the faults that a test wants. */
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Clock, systemClock } from '../../controller/runtime/clock.ts';

interface PortState {
  domain: string;
  egress: string;
}

interface Change {
  readonly node: string;
  readonly ports: readonly string[];
  readonly domain: string;
  readonly egress: string;
  status: 'Pending' | 'Done' | 'Error';
  error?: string;
  cancelTimer(): void;
}

export class SwitchService {
  /** By `node/port`. */
  readonly ports = new Map<string, PortState>();
  readonly changes = new Map<string, Change>();
  /** Of all requests, as `METHOD path`. */
  readonly log: string[] = [];
  takesMs = 20;
  /** The next change ends in an error. */
  failsNext = false;
  /** Says Done and changes nothing. */
  lies = false;
  /** Answers nothing. */
  silent = false;
  /** Changes never end by themselves. */
  stuck = false;
  token: string | undefined;
  /** Called once a change was begun. */
  onBegin: () => void = () => {};
  readonly #server: Server;
  readonly #clock: Clock;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
    this.#server = createServer((request, response) => {
      let text = '';
      request.on('data', (chunk) => (text += chunk));
      request.on('end', () => {
        this.log.push(`${request.method} ${request.url}`);
        if (this.silent) return;
        const authorized = this.token === undefined || request.headers.authorization === `Bearer ${this.token}`;
        if (!authorized) return answer(response, 401, {});
        this.#handle(request.method ?? '', request.url ?? '', text, response);
      });
    });
  }

  #handle(method: string, path: string, text: string, response: ServerResponse): void {
    if (path === '/v1/ports') {
      const ports = [...this.ports].map(([name, state]) => {
        const [node, port] = name.split('/');
        return { node, port, ...state };
      });
      answer(response, 200, { ports });
      return;
    }
    const id = path.replace('/v1/changes/', '');
    const known = this.changes.get(id) ?? (method === 'PUT' ? this.#begin(id, text) : undefined);
    if (known === undefined) {
      answer(response, 404, {});
      return;
    }
    if (method === 'DELETE' && known.status === 'Pending') {
      known.cancelTimer();
      known.status = 'Error';
      known.error = 'cancelled';
    }
    const { status, error } = known;
    const http = status === 'Pending' ? 202 : status === 'Error' && method === 'PUT' ? 422 : 200;
    answer(response, http, { status, ...(error === undefined ? {} : { error }) });
  }

  #begin(id: string, text: string): Change {
    const body = JSON.parse(text) as Pick<Change, 'node' | 'ports' | 'domain' | 'egress'>;
    const busy = [...this.changes.values()].some(
      (other) =>
        other.status === 'Pending' && other.node === body.node && other.ports.some((port) => body.ports.includes(port)),
    );
    const change: Change = { ...body, status: 'Pending', cancelTimer: () => {} };
    this.changes.set(id, change);
    this.onBegin();
    if (busy || this.failsNext) {
      change.status = 'Error';
      change.error = busy ? 'another change of the port is pending' : 'the switch refuses the port';
      this.failsNext = false;
      return change;
    }
    if (!this.stuck) {
      change.cancelTimer = this.#clock.setTimer(this.takesMs, () => {
        change.status = 'Done';
        if (this.lies) return;
        for (const port of body.ports)
          this.ports.set(`${body.node}/${port}`, { domain: body.domain, egress: body.egress });
      });
    }
    return change;
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      for (const change of this.changes.values()) change.cancelTimer();
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }
}

function answer(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}
