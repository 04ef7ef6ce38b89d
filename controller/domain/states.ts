/**
 * The life of a node as one table. A state is the first row of its path whose `until` does not hold yet, so that a
 * restarted operator finds its place from what is observed, and nothing is done twice because it was forgotten.
 *
 * Invariants:
 * 1. A state is left because of what was observed, never because of what was asked for.
 * 2. Every `until` looks at facts of the epoch in force alone (`factsOf` hides all others).
 * 3. No row of the tenancy path fences, switches off or wipes; no row of the reclaim path starts a guest.
 */
import type { Environment, Isolate, NodeObservation, Port } from '../api/protocol.generated.ts';
import type { PhysicalNodeStatus } from '../api/types.generated.ts';

export type NodeState = NonNullable<PhysicalNodeStatus['state']>;

/** Where the data ports of an allocation's node have to be. */
export interface IsolationTerms {
  readonly allocationUid: string;
  readonly domain: string;
  readonly egress: 'None' | 'Shared' | 'Internet';
}

/** What the tenancy path needs to know of the allocation that owns the node. */
export interface TenancyTerms extends IsolationTerms {
  readonly devirtualize: 'WhenInstalled' | 'Never';
  readonly environment: Environment;
  readonly hostname: string;
  readonly sshKeys: readonly string[];
}

export interface ReclaimTerms {
  readonly erase: 'Quick' | 'Crypto' | 'Full';
  readonly drainSeconds: number;
  readonly drainMessage: string;
  /** Fresh for each reclaim epoch: 16 characters or more. */
  readonly nonce: string;
}

/** The part of an instruction that a row decides; node, epoch and operation id are added when it is sent. */
export type Step =
  | { verb: 'isolate'; args: Isolate['args'] }
  | { verb: 'reimage'; args: { environment: Environment; allocation: string; hostname: string; sshKeys: string[] } }
  | { verb: 'devirtualize'; args: { phase: 'Prepare' | 'Commit' } }
  | { verb: 'drain'; args: { timeoutSeconds: number; message: string } }
  | { verb: 'power'; args: { desired: 'Off' | 'On' } }
  | { verb: 'attest'; args: { nonce: string } }
  | { verb: 'wipe'; args: { erase: 'Quick' | 'Crypto' | 'Full' } }
  | { verb: 'fence' | 'check' | 'inspect' };

interface RowText {
  readonly state: NodeState;
  /** What ends the state, for the generated page. */
  readonly endsWhen: string;
  readonly bootOrder: string;
  readonly bootServer: string;
  /** Seconds after which a state that has not ended counts as one failed attempt; 0: none. */
  readonly deadlineSeconds: number;
  /** Attempts after the first. */
  readonly retries: number;
  readonly onFailure: string;
}

export interface TenancyRow extends RowText {
  readonly step: (terms: TenancyTerms) => Step | undefined;
  readonly until: (facts: NodeObservation, terms: TenancyTerms) => boolean;
}

export interface ReclaimRow extends RowText {
  readonly step: (terms: ReclaimTerms) => Step;
  readonly until: (facts: NodeObservation, terms: ReclaimTerms) => boolean;
}

const dataPorts = (facts: NodeObservation): Port[] => facts.ports.filter((port) => port.role === 'Data');

/**
 * Every data port was read back as a member of `domain` alone and, where `egress` is given, with that way out. A node without a
 * data port cannot be isolated.
 */
export function isolatedIn(facts: NodeObservation, domain: string, egress?: Port['egress']): boolean {
  const ports = dataPorts(facts);
  return (
    ports.length > 0 &&
    ports.every((port) => port.state === 'Ready' && port.domain === domain && (!egress || port.egress === egress))
  );
}

const controlPortClosed = (facts: NodeObservation): boolean =>
  facts.ports.every((port) => port.role !== 'Control' || (port.state === 'Ready' && port.domain === 'closed'));

const copyComplete = (facts: NodeObservation): boolean =>
  facts.copy.map === 'Valid' &&
  facts.copy.totalBytes > 0 &&
  facts.copy.localBytes >= facts.copy.totalBytes &&
  facts.copy.flushed;

const vmmHasLeft = (facts: NodeObservation): boolean =>
  facts.record.commitSent && facts.vmm === 'Absent' && controlPortClosed(facts);

const inUseFailure = 'reported on the allocation; replaced where failurePolicy says so; never re-imaged';

/** The way of a claimed node, in order. The last two rows are where it rests. */
export const tenancyPath: readonly TenancyRow[] = [
  {
    state: 'Isolating',
    step: ({ domain, egress, allocationUid }) => ({
      verb: 'isolate',
      args: { domain, egress, allocation: allocationUid },
    }),
    // An allocation that took over a claim before the guest was started must be known to the agent, even where the domain is the same.
    until: (facts, { domain, egress, allocationUid }) =>
      facts.record.guestStarted || (isolatedIn(facts, domain, egress) && facts.record.allocation === allocationUid),
    endsWhen: "every data port was read back in the allocation's domain",
    bootOrder: 'Network',
    bootServer: 'Nothing',
    deadlineSeconds: 300,
    retries: 3,
    onFailure: 'not yet in use: another node takes its place, this one is reclaimed and quarantined',
  },
  {
    state: 'Booting',
    step: ({ environment, allocationUid, hostname, sshKeys }) => ({
      verb: 'reimage',
      args: { environment, allocation: allocationUid, hostname, sshKeys: [...sshKeys] },
    }),
    until: (facts) => facts.record.commitSent || (facts.record.guestStarted && facts.guest.starts > 0),
    endsWhen: 'the guest runs from the network image',
    bootOrder: 'Network',
    bootServer: 'VMM of the same epoch',
    deadlineSeconds: 1800,
    retries: 2,
    onFailure: 'not yet in use: another node takes its place, this one is reclaimed and quarantined',
  },
  {
    state: 'Streaming',
    step: () => undefined,
    until: (facts) => facts.record.commitSent || copyComplete(facts),
    endsWhen: 'every block is local and flushed, and the map of filled blocks is valid',
    bootOrder: 'Network',
    bootServer: 'VMM of the same epoch',
    deadlineSeconds: 0,
    retries: 0,
    onFailure: inUseFailure,
  },
  {
    state: 'Resident',
    step: () => undefined,
    until: (_facts, { devirtualize }) => devirtualize === 'WhenInstalled',
    endsWhen: 'never by itself: devirtualize is Never',
    bootOrder: 'Network',
    bootServer: 'VMM of the same epoch',
    deadlineSeconds: 0,
    retries: 0,
    onFailure: inUseFailure,
  },
  {
    state: 'Installed',
    step: ({ domain, egress, allocationUid }) => ({
      verb: 'isolate',
      args: { domain, egress, allocation: allocationUid },
    }),
    until: (facts, { domain, egress }) => facts.record.commitSent || isolatedIn(facts, domain, egress),
    endsWhen: "every data port was read back again in the allocation's domain",
    bootOrder: 'Network',
    bootServer: 'VMM of the same epoch',
    deadlineSeconds: 300,
    retries: 5,
    onFailure: inUseFailure,
  },
  {
    state: 'Sealing',
    step: () => ({ verb: 'devirtualize', args: { phase: 'Prepare' } }),
    until: (facts) => facts.record.commitSent || facts.prepared === true,
    endsWhen:
      'no redirected I/O is in flight, the export is closed, the boot order is the disk, isolation was read back',
    bootOrder: 'Disk, set here',
    bootServer: 'Nothing',
    deadlineSeconds: 600,
    retries: 3,
    onFailure: inUseFailure,
  },
  {
    state: 'Devirtualizing',
    step: () => ({ verb: 'devirtualize', args: { phase: 'Commit' } }),
    until: vmmHasLeft,
    endsWhen: 'the hypervisor is absent and the control port was read back as closed',
    bootOrder: 'Disk',
    bootServer: 'Nothing',
    deadlineSeconds: 300,
    retries: 0,
    onFailure: `${inUseFailure}; the control port is closed all the same`,
  },
  {
    state: 'BareMetal',
    step: () => undefined,
    until: () => false,
    endsWhen: 'never by itself: silence is the healthy state',
    bootOrder: 'Disk',
    bootServer: 'Nothing',
    deadlineSeconds: 0,
    retries: 0,
    onFailure: inUseFailure,
  },
];

const dirty = 'Quarantined (fenced as far as observed, dirty, reason shown); a person decides';

/** The way back of a node whose end was recorded, in order; behind the last row stands the release. */
export const reclaimPath: readonly ReclaimRow[] = [
  {
    state: 'Draining',
    step: ({ drainSeconds, drainMessage }) => ({
      verb: 'drain',
      args: { timeoutSeconds: drainSeconds, message: drainMessage },
    }),
    until: (facts) => facts.record.ended && (!facts.record.guestStarted || facts.reclaim.drained),
    endsWhen: 'the guest is off, or its time to shut down is over',
    bootOrder: 'unchanged',
    bootServer: 'Nothing',
    deadlineSeconds: 900,
    retries: 1,
    onFailure: dirty,
  },
  {
    state: 'Fencing',
    step: () => ({ verb: 'fence' }),
    until: (facts) => isolatedIn(facts, 'quarantine'),
    endsWhen: 'every data port was read back in quarantine',
    bootOrder: 'unchanged',
    bootServer: 'Nothing',
    deadlineSeconds: 600,
    retries: 5,
    onFailure: dirty,
  },
  {
    state: 'PoweringOff',
    step: () => ({ verb: 'power', args: { desired: 'Off' } }),
    // The power that an attestation under way has switched on is not the guest's.
    until: (facts) =>
      facts.power === 'Off' ||
      facts.reclaim.attestedNonce !== '' ||
      facts.reclaim.wipedDisks > 0 ||
      (facts.operation?.verb === 'attest' && facts.operation.status === 'Running'),
    endsWhen: 'power was read back as Off',
    bootOrder: 'Network, set here',
    bootServer: 'Nothing',
    deadlineSeconds: 600,
    retries: 5,
    onFailure: dirty,
  },
  {
    state: 'Attesting',
    step: ({ nonce }) => ({ verb: 'attest', args: { nonce } }),
    until: (facts, { nonce }) => facts.reclaim.attestedNonce === nonce || certified(facts, nonce),
    endsWhen: 'the trusted image proved itself with the fresh nonce',
    bootOrder: 'Network',
    bootServer: 'the trusted image only',
    deadlineSeconds: 1800,
    retries: 3,
    onFailure: dirty,
  },
  {
    state: 'Wiping',
    step: ({ erase }) => ({ verb: 'wipe', args: { erase } }),
    until: (facts, { nonce }) =>
      facts.reclaim.wipedDisks >= Math.max(1, facts.inventory.disks.length) || certified(facts, nonce),
    endsWhen: 'every inventoried disk was wiped and read back',
    bootOrder: 'Network',
    bootServer: 'the trusted image only',
    deadlineSeconds: 86_400,
    retries: 3,
    onFailure: dirty,
  },
  {
    state: 'Checking',
    step: () => ({ verb: 'check' }),
    until: (facts, { nonce }) => certified(facts, nonce),
    endsWhen: 'disks, memory and links meet the baseline, and the certificate is in the log of the agent',
    bootOrder: 'Network',
    bootServer: 'the trusted image only',
    deadlineSeconds: 3600,
    retries: 1,
    onFailure: dirty,
  },
];

/** The agent's log holds a clean certificate of this very reclaim. */
function certified(facts: NodeObservation, nonce: string): boolean {
  const { record } = facts;
  return (
    record.certificate !== undefined &&
    record.certificate.epoch === record.epoch &&
    record.certificate.nonce === nonce &&
    !record.guestStarted &&
    !record.ended
  );
}

/** States in which nothing is done until somebody or something else acts. */
const restingRows: readonly RowText[] = (
  [
    ['Enrolling', 'the records of operator and agent were compared; a certificate, a commission or a person decides'],
    ['Available', 'an allocation claims it'],
    ['Quarantined', 'a person decides (spec.decision), naming the epoch'],
    ['Maintenance', 'spec.maintenance is taken away'],
    ['Orphaned', 'an allocation of the same namespace, name and revision adopts the claim, or a person ends it'],
  ] as const
).map(([state, endsWhen]) => ({
  state,
  endsWhen,
  bootOrder: 'unchanged',
  bootServer: 'Nothing',
  deadlineSeconds: 0,
  retries: 0,
  onFailure: 'stays',
}));

/** The whole table, in the order of the generated page. */
export const nodeStates: readonly RowText[] = [...restingRows, ...tenancyPath, ...reclaimPath];

const runningStates: ReadonlySet<NodeState> = new Set([
  'Streaming',
  'Resident',
  'Installed',
  'Sealing',
  'Devirtualizing',
  'BareMetal',
]);
const installedStates: ReadonlySet<NodeState> = new Set([
  'Resident',
  'Installed',
  'Sealing',
  'Devirtualizing',
  'BareMetal',
]);
const reclaimStates: ReadonlySet<NodeState> = new Set(reclaimPath.map((row) => row.state));

export const guestRuns = (state: NodeState): boolean => runningStates.has(state);
export const isInstalled = (state: NodeState): boolean => installedStates.has(state);
export const isReclaiming = (state: NodeState): boolean => reclaimStates.has(state);
