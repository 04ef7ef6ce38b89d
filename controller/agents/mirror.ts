/**
 * What a link knows of its agent: takes the lines of its streams, keeps what may be exposed, refuses contradictions.
 *
 * Invariants (1-3 of port.ts):
 * 1. A line is applied whole or throws an AgentError, after which the stream must be ended; what was known stays.
 * 2. A node's sequence number only grows under one boot nonce.
 * 3. A resume point is given only after a snapshot was complete, and is the highest sequence number applied since.
 */
import type { Hello, Line, NodeObservation } from '../api/protocol.generated.ts';
import type { Clock } from '../runtime/clock.ts';
import {
  AgentError,
  type AgentErrorReason,
  type LinkListener,
  type LinkState,
  longestStrangerList,
  protocolName,
} from './port.ts';

interface Known {
  seq: number;
  /** The snapshot that last spoke of it. */
  snapshot: number;
}

export class Mirror {
  readonly #agent: string;
  readonly #clock: Clock;
  readonly #listeners = new Set<LinkListener>();
  readonly #nodes = new Map<string, NodeObservation>();
  readonly #known = new Map<string, Known>();
  readonly #strangers = new Set<string>();
  #accepted: ReadonlySet<string>;
  #state: LinkState;
  /** Boot nonce of the last complete snapshot, and the highest sequence number since. */
  #resume: { bootNonce: string; since: number } | undefined;
  #bootNonce = '';
  #snapshot = 0;
  #wholeSnapshot = false;
  #strangerLines = 0;
  #inStream = false;

  constructor(agent: string, acceptedNodes: ReadonlySet<string>, clock: Clock) {
    this.#agent = agent;
    this.#accepted = acceptedNodes;
    this.#clock = clock;
    this.#state = { connected: false, synced: false, strangers: [], strangerLines: 0, changedAtMs: clock.now() };
  }

  get nodes(): ReadonlyMap<string, NodeObservation> {
    return this.#nodes;
  }

  state(): LinkState {
    return this.#strangerLines === this.#state.strangerLines
      ? this.#state
      : { ...this.#state, strangerLines: this.#strangerLines };
  }

  onChange(listener: LinkListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Where the next stream may go on. */
  resumePoint(): { readonly bootNonce: string; readonly since: number } | undefined {
    return this.#resume;
  }

  /** Returns whether a new snapshot is needed, because a node came in. */
  accept(nodes: ReadonlySet<string>): boolean {
    const cameIn = [...nodes].some((name) => !this.#accepted.has(name));
    this.#accepted = nodes;
    for (const name of this.#nodes.keys()) if (!nodes.has(name)) this.#drop(name);
    let strangersChanged = false;
    for (const name of nodes) strangersChanged = this.#strangers.delete(name) || strangersChanged;
    if (strangersChanged) this.#setState({ strangers: [...this.#strangers] });
    if (cameIn) this.#resume = undefined;
    return cameIn;
  }

  apply(line: Line): void {
    if (line.type === 'hello') {
      this.#hello(line);
      return;
    }
    if (!this.#inStream) throw this.#protocolError(`the stream began with ${line.type} instead of hello`);
    switch (line.type) {
      case 'node':
        this.#node(line.seq, line.node);
        break;
      case 'gone':
        this.#gone(line.seq, line.name);
        break;
      case 'synced':
        this.#synced(line.seq);
        break;
      case 'alive':
        this.#state = { ...this.#state, counters: line.counters };
        break;
    }
  }

  #hello(hello: Hello): void {
    if (this.#inStream) throw this.#protocolError('a second hello in one stream');
    if (hello.protocol !== protocolName) {
      throw this.#protocolError(`it speaks ${hello.protocol}, and this operator ${protocolName}`);
    }
    if (hello.agent !== this.#agent) {
      throw new AgentError('Untrusted', this.#agent, `the agent at this endpoint calls itself ${hello.agent}`);
    }
    if (hello.resumed && hello.bootNonce !== this.#resume?.bootNonce) {
      throw this.#protocolError('it resumed a stream of another boot nonce');
    }
    if (hello.bootNonce !== this.#bootNonce) {
      this.#bootNonce = hello.bootNonce;
      this.#resume = undefined;
      for (const known of this.#known.values()) known.seq = -1;
    }
    this.#inStream = true;
    this.#snapshot++;
    this.#wholeSnapshot = !hello.resumed;
    this.#strangerLines = 0;
    this.#setState({ connected: true, synced: false, hello, changedAtMs: this.#clock.now() });
  }

  #node(seq: number, node: NodeObservation): void {
    const { name } = node;
    if (!this.#accepted.has(name)) {
      this.#stranger(name);
      return;
    }
    const known = this.#known.get(name);
    if (known !== undefined) known.snapshot = this.#snapshot;
    if (known !== undefined && seq <= known.seq) return;
    this.#known.set(name, { seq, snapshot: this.#snapshot });
    this.#nodes.set(name, node);
    this.#advance(seq);
    this.#tell(name);
  }

  #gone(seq: number, name: string): void {
    const known = this.#known.get(name);
    if (known === undefined || seq <= known.seq) return;
    this.#advance(seq);
    this.#drop(name);
  }

  #stranger(name: string): void {
    this.#strangerLines++;
    if (this.#strangers.size >= longestStrangerList || this.#strangers.has(name)) return;
    this.#strangers.add(name);
    this.#setState({ strangers: [...this.#strangers] });
  }

  #synced(seq: number): void {
    if (this.#state.synced) return;
    if (this.#wholeSnapshot) {
      for (const [name, known] of this.#known) if (known.snapshot !== this.#snapshot) this.#drop(name);
    }
    this.#resume = { bootNonce: this.#bootNonce, since: Math.max(seq, this.#resume?.since ?? 0) };
    const { lastError: _over, ...rest } = this.#state;
    this.#state = rest;
    this.#setState({ synced: true });
  }

  #advance(seq: number): void {
    if (this.#state.synced && this.#resume !== undefined) this.#resume.since = Math.max(this.#resume.since, seq);
  }

  #drop(name: string): void {
    this.#known.delete(name);
    if (this.#nodes.delete(name)) this.#tell(name);
  }

  /** The stream ended; with a reason, that is shown. */
  ended(reason?: AgentErrorReason, message?: string): void {
    this.#inStream = false;
    const error =
      reason === undefined ? {} : { lastError: { reason, message: message ?? '', atMs: this.#clock.now() } };
    if (!this.#state.connected && reason === undefined) return;
    const changed = this.#state.connected ? { changedAtMs: this.#clock.now() } : {};
    this.#setState({ connected: false, synced: false, ...error, ...changed });
  }

  #protocolError(message: string): AgentError {
    return new AgentError('Protocol', this.#agent, message);
  }

  #setState(change: Partial<LinkState>): void {
    this.#state = { ...this.#state, ...change, strangerLines: this.#strangerLines };
    this.#tell(null);
  }

  #tell(name: string | null): void {
    for (const listener of this.#listeners) listener(name);
  }

  close(): void {
    this.ended();
    this.#listeners.clear();
  }
}
