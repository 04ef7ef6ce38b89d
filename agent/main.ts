/**
 * Starts the agents of one or many racks in this process, each with its own log, machines, certificate and port.
 *
 * Invariants:
 * 1. Files of a rack are below `dataDir/<name>`: `log.sqlite` (the agent's), and `room.sqlite` (simulated machines') or what other
 *    drivers keep.
 * 2. Either every agent listens, or none does and the error names the rack.
 */
import { join } from 'node:path';
import type { Clock } from '../controller/runtime/clock.ts';
import type { Random } from '../controller/runtime/random.ts';
import { AgentCore } from './core.ts';
import type { Drivers } from './drivers/port.ts';
import { simulatedDrivers } from './drivers/simulated/drivers.ts';
import { defaultRoom, type RoomOptions } from './drivers/simulated/options.ts';
import { SimulatedRack } from './drivers/simulated/rack.ts';
import { MemoryRackStore, openSqliteRackStore } from './drivers/simulated/store.ts';
import { type AgentLog, MemoryLog, openSqliteLog } from './log.ts';
import { scaledClock } from './scaled-clock.ts';
import { type AgentServer, type ServerTls, startAgentServer } from './server.ts';

export const agentVersion = '0.1.0';

export interface RackSpec {
  /** Name of its BitVisorAgent, which its certificate carries as a DNS name. */
  readonly name: string;
  readonly site: string;
  readonly rack: string;
  readonly nodes: readonly string[];
  /** Id of the log when it has to be made; a fresh one when absent. */
  readonly storeId?: string;
  /** Any free one when absent. */
  readonly port?: number;
}

export interface RoomSettings extends Partial<RoomOptions> {
  /** How many times faster than real the machines live; 1 when absent. */
  readonly factor?: number;
}

/** Where agents say what happens; pino's logger fits. */
export interface AgentsLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

interface LocalAgentsOptions {
  readonly racks: readonly RackSpec[];
  /** Absent: nothing outlives the process. */
  readonly dataDir?: string;
  readonly room: RoomSettings;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: AgentsLog;
}

export interface AgentsOptions extends LocalAgentsOptions {
  /** Absent: the machines are simulated. */
  readonly openDrivers?: OpenDrivers;
  readonly tls: (rack: RackSpec) => ServerTls | Promise<ServerTls>;
  /** 127.0.0.1 when absent. */
  readonly host?: string;
  /** What the operator's certificate must say; its common name is "bitvisor-operator" when absent. */
  readonly operator?: { readonly commonName: string; readonly organization?: string };
}

/** One rack without a transport. */
interface LocalAgent {
  readonly core: AgentCore;
  close(): Promise<void>;
}

export interface RunningAgents {
  /** https://host:port by the name of the rack. */
  readonly endpoints: ReadonlyMap<string, string>;
  /** Takes renewed certificates of one agent into force. @throws as `AgentServer.renewTls` */
  renewTls(name: string, tls: ServerTls): void;
  close(): Promise<void>;
}

export interface RackContext {
  /** Below the data directory, the rack's own. */
  readonly directory: string;
  readonly clock: Clock;
  readonly random: Random;
  /** Faults of the rack's parts. */
  readonly onError: (error: unknown) => void;
}

/** Drivers of a rack that is not simulated. */
export type OpenDrivers = (
  spec: RackSpec,
  context: RackContext,
) => Promise<{ readonly drivers: Drivers; close(): Promise<void> }>;

const tokenWarning =
  'these machines are attested by token alone: a clean certificate is written for whatever answers with it, which need not be the trusted image. ' +
  'A tenant who changes the firmware of a machine can have its disks called clean. Configure hardware.attestation (docs/attestation.md)';

/** An agent whose machines outlive the process, and so does its log: it is written through to the disk. */
async function openDrivenAgent(spec: RackSpec, options: LocalAgentsOptions, open: OpenDrivers): Promise<LocalAgent> {
  const { dataDir, clock, random, log } = options;
  if (dataDir === undefined) throw new Error('machines that are not simulated need a data directory: give dataDir');
  const onError = (error: unknown): void => log.error({ agent: spec.name, err: error }, 'agent fault');
  const directory = join(dataDir, spec.name);
  const agentLog = openSqliteLog(join(directory, 'log.sqlite'), spec.storeId ?? random.uuid(), 'PowerLoss');
  try {
    const opened = await open(spec, { directory, clock, random, onError });
    const { name, nodes } = spec;
    const { drivers } = opened;
    const provesNothing = ['hardware', 'attestation:Token'].every((one) => drivers.capabilities.includes(one));
    if (provesNothing) log.warn({ agent: name, nodes: nodes.length }, tokenWarning);
    const core = new AgentCore({ name, version: agentVersion, nodes, drivers, log: agentLog, clock, random, onError });
    return {
      core,
      async close() {
        core.close();
        await opened.close();
        agentLog.close();
      },
    };
  } catch (error) {
    agentLog.close();
    throw error;
  }
}

function openSimulatedAgent(spec: RackSpec, options: LocalAgentsOptions): LocalAgent {
  const { dataDir, random, log } = options;
  const { factor = 1, ...overrides } = options.room;
  const room: RoomOptions = { ...defaultRoom, ...overrides };
  const clock = scaledClock(options.clock, factor);
  const onError = (error: unknown): void => log.error({ agent: spec.name, err: error }, 'agent fault');
  const newStoreId = spec.storeId ?? random.uuid();
  const store =
    dataDir === undefined
      ? new MemoryRackStore(room.historyLimit, false)
      : openSqliteRackStore(join(dataDir, spec.name, 'room.sqlite'), room.historyLimit);
  const agentLog: AgentLog =
    dataDir === undefined
      ? new MemoryLog(newStoreId)
      : openSqliteLog(join(dataDir, spec.name, 'log.sqlite'), newStoreId, 'Kill');
  const progressIntervalMs = 1000 * factor;
  const rack = new SimulatedRack({ nodes: spec.nodes, room, store, clock, random, progressIntervalMs, onError });
  const drivers: Drivers = simulatedDrivers(rack);
  const core = new AgentCore({
    name: spec.name,
    version: agentVersion,
    nodes: spec.nodes,
    drivers,
    log: agentLog,
    clock,
    random,
    onError,
  });
  return {
    core,
    async close() {
      core.close();
      drivers.close();
      agentLog.close();
    },
  };
}

/**
 * Starts all racks; resolves when every one listens.
 * @throws when a port is taken or a data file cannot be opened; the others are closed then
 */
export async function startAgents(options: AgentsOptions): Promise<RunningAgents> {
  const { racks, tls, host = '127.0.0.1', operator = { commonName: 'bitvisor-operator' }, clock, log } = options;
  const agents = new Map<string, LocalAgent>();
  const servers = new Map<string, AgentServer>();
  const closeAll = async (): Promise<void> => {
    await Promise.all([...servers.values()].map((server) => server.close()));
    await Promise.all([...agents.values()].map((agent) => agent.close()));
  };
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= closeAll();
    return closing;
  };
  for (const spec of racks) {
    try {
      const { openDrivers } = options;
      const agent =
        openDrivers === undefined
          ? openSimulatedAgent(spec, options)
          : await openDrivenAgent(spec, options, openDrivers);
      agents.set(spec.name, agent);
      const onError = (error: unknown): void => log.error({ agent: spec.name, err: error }, 'agent server fault');
      const { port = 0 } = spec;
      const server = await startAgentServer({
        core: agent.core,
        host,
        port,
        tls: await tls(spec),
        operator,
        clock,
        onError,
      });
      servers.set(spec.name, server);
    } catch (error) {
      await close();
      throw new Error(`agent ${spec.name} did not start: ${error instanceof Error ? error.message : error}`, {
        cause: error,
      });
    }
  }
  log.info(
    { agents: agents.size, nodes: racks.reduce((sum, { nodes }) => sum + nodes.length, 0) },
    'agents are listening',
  );
  return {
    endpoints: new Map([...servers].map(([name, server]) => [name, server.endpoint])),
    renewTls: (name, renewed) => servers.get(name)?.renewTls(renewed),
    close,
  };
}
