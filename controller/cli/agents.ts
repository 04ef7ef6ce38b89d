/**
 * `bitvisor-operator agent --config FILE`: agents in a process of their own, with their simulated machine room or other drivers.
 *
 * Invariants:
 * 1. A configuration that is not understood starts nothing, and the message names the field.
 * 2. Under a parent with an IPC channel it says `listening` once all agents are, and ends when the parent is gone.
 */
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Ajv, type ErrorObject } from 'ajv';
import { parse } from 'yaml';
import { type FaultKind, faultKinds, faultTable } from '../../agent/drivers/simulated/faults.ts';
import { failingSteps } from '../../agent/drivers/simulated/options.ts';
import { type AgentsOptions, type RackSpec, startAgents } from '../../agent/main.ts';
import type { ServerTls } from '../../agent/server.ts';
import { HostlistError, parseHostlist } from '../api/hostlist.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { Random } from '../runtime/random.ts';
import { CliError } from './arguments.ts';
import { type DriversConfig, driversOf, driversSchema } from './drivers.ts';
import { followFiles } from './tls-files.ts';

/** The file, in YAML or JSON. Paths are relative to it; `{name}` in them stands for the agent's name. */
export interface AgentsConfig extends DriversConfig {
  /** Where logs and machines live on. Absent: nothing outlives the process. */
  readonly dataDir?: string;
  readonly host?: string;
  readonly tls: { readonly ca: string; readonly certificate: string; readonly key: string };
  /** Common name of the operator's certificate. Default `bitvisor-operator`. */
  readonly operator?: string;
  readonly room?: {
    /** How many times faster than real. Default 1. */
    readonly timeFactor?: number;
    readonly zeroDelays?: boolean;
    readonly spread?: number;
    readonly guestIo?: number;
    readonly imageServerBytesPerSecond?: number;
    /** 0 to 1, by step. */
    readonly failureRates?: Readonly<Record<string, number>>;
    /** By kind of fault: 0 to 1 for each occasion, or times a day, as `agent/drivers/simulated/faults.ts` says. */
    readonly faultRates?: Readonly<Record<string, number>>;
  };
  readonly racks: readonly {
    readonly name: string;
    readonly site: string;
    readonly rack: string;
    /** Hostlist. */
    readonly nodes: string;
    readonly storeId?: string;
    readonly port?: number;
  }[];
}

const text = { type: 'string', minLength: 1, maxLength: 4096 };
const share = { type: 'number', minimum: 0, maximum: 1 };
/** Once a second: a machine that faults more often does nothing else. */
const timesADay = { type: 'number', minimum: 0, maximum: 86_400 };
const faultRate = (kind: FaultKind): object => (faultTable[kind].occasion === 'Step' ? share : timesADay);
const closed = (required: string[], properties: object): object => {
  return { type: 'object', additionalProperties: false, required, properties };
};
const schema = closed(['tls', 'racks'], {
  dataDir: text,
  host: text,
  operator: text,
  ...driversSchema,
  tls: closed(['ca', 'certificate', 'key'], { ca: text, certificate: text, key: text }),
  room: closed([], {
    timeFactor: { type: 'number', exclusiveMinimum: 0 },
    zeroDelays: { type: 'boolean' },
    spread: share,
    guestIo: share,
    imageServerBytesPerSecond: { type: 'number', exclusiveMinimum: 0 },
    failureRates: closed([], Object.fromEntries(failingSteps.map((step) => [step, share]))),
    faultRates: closed([], Object.fromEntries(faultKinds.map((kind) => [kind, faultRate(kind)]))),
  }),
  racks: {
    type: 'array',
    minItems: 1,
    maxItems: 10_000,
    items: closed(['name', 'site', 'rack', 'nodes'], {
      name: { type: 'string', pattern: '^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$' },
      site: text,
      rack: text,
      nodes: text,
      storeId: text,
      port: { type: 'integer', minimum: 0, maximum: 65_535 },
    }),
  },
});

function explain(error: ErrorObject): string {
  const place = error.instancePath
    .slice(1)
    .replaceAll(/\/(\d+)/g, '[$1]')
    .replaceAll('/', '.');
  const { additionalProperty } = error.params as { additionalProperty?: string };
  const known = place === 'room.failureRates' ? failingSteps : place === 'room.faultRates' ? faultKinds : [];
  const list = known.length === 0 ? '' : `; there are ${known.join(', ')}`;
  const unknown = additionalProperty === undefined ? '' : `: ${JSON.stringify(additionalProperty)}${list}`;
  return `${place === '' ? 'the file' : place} ${error.message}${unknown}`;
}

/** @throws CliError that names the file and the field */
export function readAgentsConfig(path: string): AgentsConfig {
  let value: unknown;
  try {
    value = parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new CliError(`--config: cannot read ${path}: ${error instanceof Error ? error.message : error}`);
  }
  const validate = new Ajv({ allErrors: true }).compile<AgentsConfig>(schema);
  if (!validate(value)) throw new CliError(`--config: ${path}: ${(validate.errors ?? []).map(explain).join('; ')}`);
  return value;
}

function rackSpec(rack: AgentsConfig['racks'][number], path: string): RackSpec {
  try {
    return { ...rack, nodes: parseHostlist(rack.nodes) };
  } catch (error) {
    if (!(error instanceof HostlistError)) throw error;
    throw new CliError(`--config: ${path}: nodes of rack ${rack.name}: ${error.message}`);
  }
}

export interface AgentContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Ends the agents. */
  readonly signal: AbortSignal;
  /** Called with the endpoints by name once all listen. */
  readonly onListening: (endpoints: ReadonlyMap<string, string>) => void;
}

/** Resolves when the signal has ended the agents. @throws CliError when they cannot start */
export async function runAgents(path: string, context: AgentContext): Promise<void> {
  const { clock, random, log, signal, onListening } = context;
  const config = readAgentsConfig(path);
  const at = (file: string, name = ''): string => resolve(dirname(path), file.replaceAll('{name}', name));
  const pem = (file: string, name?: string): string => {
    try {
      return readFileSync(at(file, name), 'utf8');
    } catch (error) {
      throw new CliError(`--config: ${path}: tls: ${error instanceof Error ? error.message : error}`);
    }
  };
  const filesOf = ({ name }: { readonly name: string }): ServerTls => {
    const { ca, certificate, key } = config.tls;
    return { caPem: pem(ca), certPem: pem(certificate, name), keyPem: pem(key, name) };
  };
  const { timeFactor = 1, ...room } = config.room ?? {};
  const openDrivers = await driversOf(config, at).catch((error: unknown) => {
    throw new CliError(`--config: ${path}: ${error instanceof Error ? error.message : error}`);
  });
  const options: AgentsOptions = {
    racks: config.racks.map((rack) => rackSpec(rack, path)),
    ...(config.dataDir === undefined ? {} : { dataDir: at(config.dataDir) }),
    ...(config.host === undefined ? {} : { host: config.host }),
    ...(config.operator === undefined ? {} : { operator: { commonName: config.operator } }),
    room: { ...room, factor: timeFactor },
    ...(openDrivers === undefined ? {} : { openDrivers }),
    tls: filesOf,
    clock,
    random,
    log: {
      info: (fields, message) => log.info(message, { ...fields }),
      warn: (fields, message) => log.warn(message, { ...fields }),
      error: (fields, message) => log.error(message, { ...fields }),
    },
  };
  const running = await startAgents(options).catch((error: unknown) => {
    if (error instanceof CliError) throw error;
    throw new CliError(error instanceof Error ? error.message : String(error));
  });
  onListening(running.endpoints);
  for (const rack of config.racks) {
    const { name } = rack;
    const apply = (files: ServerTls): void => running.renewTls(name, files);
    const follow = { clock, log: log.child({ agent: name }), signal, current: filesOf(rack), apply };
    void followFiles({ ...follow, read: () => filesOf(rack) });
  }
  if (!signal.aborted)
    await new Promise<void>((wake) => signal.addEventListener('abort', () => wake(), { once: true }));
  await running.close();
}
