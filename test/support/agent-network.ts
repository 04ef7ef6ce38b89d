/** Real TLS between a link and an agent core that lives under a virtual clock. */

import type { AgentCore } from '../../agent/core.ts';
import { scaledClock } from '../../agent/scaled-clock.ts';
import { type AgentServer, startAgentServer } from '../../agent/server.ts';
import type { FloodBound } from '../../controller/agents/lines.ts';
import { AgentPool } from '../../controller/agents/pool.ts';
import type { AgentLink } from '../../controller/agents/port.ts';
import { systemClock } from '../../controller/runtime/clock.ts';
import { seededRandom } from '../../controller/runtime/random.ts';
import type { AgentRoom } from './agent-room.ts';
import { makeTestCa, type TestCa } from './test-ca.ts';

/** Real milliseconds that a test waits at most. */
const patienceMs = 20_000;
const pause = (): Promise<void> => new Promise((resolve) => systemClock.setTimer(2, resolve));

/** Polls until the condition holds, letting the room's time pass meanwhile. */
export async function untilReal(condition: () => boolean, room?: AgentRoom): Promise<void> {
  const start = systemClock.monotonic();
  while (!condition()) {
    if (systemClock.monotonic() - start > patienceMs) throw new Error(`not within ${patienceMs} ms: ${condition}`);
    await room?.clock.advance(50);
    await pause();
  }
}

/** One CA for a test file: making keys is the slow part. */
let shared: Promise<TestCa> | undefined;
export function sharedCa(): Promise<TestCa> {
  shared ??= makeTestCa();
  return shared;
}

export class AgentNetwork {
  readonly ca: TestCa;
  readonly #links: AgentLink[] = [];
  server: AgentServer | undefined;

  constructor(ca: TestCa) {
    this.ca = ca;
  }

  /** `faster`: how many times sooner the agent loses its patience with a reader. */
  async serve(core: AgentCore, { port = 0, faster = 1 } = {}): Promise<AgentServer> {
    const { certPem, keyPem } = await this.ca.issue('agent', ['rack-0']);
    this.server = await startAgentServer({
      core,
      host: '127.0.0.1',
      port,
      tls: { caPem: this.ca.caPem, certPem, keyPem },
      operator: { commonName: 'bitvisor-operator' },
      clock: scaledClock(systemClock, faster),
    });
    return this.server;
  }

  /** `faster`: how many times sooner the operator's side loses its patience: its waits, not the agent's. */
  async pool(
    options: { commonName?: string; ca?: TestCa; flood?: FloodBound; faster?: number } = {},
  ): Promise<AgentPool> {
    const { commonName = 'bitvisor-operator', ca = this.ca, flood, faster = 1 } = options;
    const identity = await ca.issue(commonName);
    const bound = flood === undefined ? {} : { flood };
    return new AgentPool({ ...identity, clock: scaledClock(systemClock, faster), random: seededRandom(3), ...bound });
  }

  async link(
    nodes: readonly string[],
    options: Parameters<AgentNetwork['pool']>[0] & { endpoint?: string; serverName?: string } = {},
  ) {
    const pool = await this.pool(options);
    const link = pool.connect({
      name: 'rack-0',
      endpoint: options.endpoint ?? this.server?.endpoint ?? 'https://127.0.0.1:1',
      caPem: this.ca.caPem,
      serverName: options.serverName ?? 'rack-0',
      acceptedNodes: new Set(nodes),
    });
    this.#links.push(link);
    return link;
  }

  async close(): Promise<void> {
    for (const link of this.#links) link.close();
    await this.server?.close();
  }
}
