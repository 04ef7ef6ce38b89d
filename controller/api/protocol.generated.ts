/* Generated from controller/api/protocol.v1.schema.json by crds/generate.ts. Change the source, then run "npm run generate". */
/**
 * A line of the stream of observations.
 */
export type Line = Hello | NodeLine | Gone | Synced | Alive;
/**
 * Name of a node, as in the hostlist of its BitVisorAgent.
 */
export type NodeName = string;
/**
 * What showed that it was the trusted image which wiped and checked. Absent from a certificate: unknown.
 */
export type Attestation = TokenAttestation | TpmAttestation;
/**
 * What is to be done.
 */
export type Verb =
  | 'isolate'
  | 'reimage'
  | 'devirtualize'
  | 'drain'
  | 'fence'
  | 'power'
  | 'attest'
  | 'wipe'
  | 'check'
  | 'inspect'
  | 'throttle';
/**
 * One instruction for one node.
 */
export type Instruction =
  Isolate | Reimage | Devirtualize | Drain | Fence | PowerInstruction | Attest | Wipe | Check | Inspect | Throttle;

/**
 * The protocol between operator and agent, version 1. JSON over HTTP with mutual TLS: GET /v1/observations streams one Line a line; POST /v1/instructions takes an InstructionBatch.
 */
export interface AgentProtocol {
  line?: Line;
  batch?: InstructionBatch;
  batchResult?: InstructionBatchResult;
}
/**
 * First line of every stream.
 */
export interface Hello {
  type: 'hello';
  /**
   * Sequence number of the newest change.
   */
  seq: number;
  /**
   * "bitvisor.io/agent/v1".
   */
  protocol: string;
  /**
   * Name of its BitVisorAgent.
   */
  agent: string;
  /**
   * The agent's version.
   */
  version: string;
  /**
   * New at every start of the agent.
   */
  bootNonce: string;
  /**
   * Id of its durable log; new when the log is new.
   */
  storeId: string;
  /**
   * Highest term it ever accepted.
   */
  highestTerm: number;
  /**
   * What it can do: "format:Raw", "format:Qcow2", "erase:Full", ...
   *
   * @maxItems 64
   */
  capabilities: string[];
  /**
   * True: only what changed since the sequence number that was asked for follows. False: a whole snapshot follows, and nodes that are not in it are gone.
   */
  resumed: boolean;
}
/**
 * A node: one of the snapshot, or a change.
 */
export interface NodeLine {
  type: 'node';
  /**
   * Sequence number of this change.
   */
  seq: number;
  node: NodeObservation;
}
/**
 * All that the agent knows of a node. Replaces what was said before.
 */
export interface NodeObservation {
  name: NodeName;
  /**
   * System UUID of the machine.
   */
  systemUuid: string;
  inventory: Inventory;
  record: Record;
  /**
   * Power, as read from the BMC and believed only where it agrees with what else is seen.
   */
  power: 'On' | 'Off' | 'Unknown';
  /**
   * The hypervisor.
   */
  vmm: 'Resident' | 'Absent' | 'Unknown';
  /**
   * @maxItems 32
   */
  ports: Port[];
  /**
   * How the machine boots next.
   */
  boot: {
    /**
     * Boot order that was read back.
     */
    order: 'Network' | 'Disk' | 'Unknown';
    /**
     * What the boot server answers this machine.
     */
    serving: 'Vmm' | 'Trusted' | 'Nothing';
  };
  /**
   * The guest.
   */
  guest: {
    /**
     * Unknown after devirtualization.
     */
    state: 'Running' | 'Off' | 'Unknown';
    /**
     * Boots under this epoch.
     */
    starts: number;
    /**
     * Its address on the data network, where known.
     */
    address?: string;
    /**
     * Its public SSH host key, where known.
     */
    hostKey?: string;
    failure?: Failure;
  };
  /**
   * The local disk.
   */
  copy: {
    /**
     * Size of the image; 0 before reimage.
     */
    totalBytes: number;
    /**
     * Bytes that are local.
     */
    localBytes: number;
    /**
     * Every local block is durable.
     */
    flushed: boolean;
    /**
     * Redirected reads and writes under way.
     */
    inFlight: number;
    /**
     * The map of filled blocks.
     */
    map: 'None' | 'Valid' | 'Invalid';
  };
  /**
   * Ready to commit: every block local and flushed, no redirected I/O in flight, export closed, boot order set to the disk and served nothing, every data port read back in its domain.
   */
  prepared?: boolean;
  /**
   * Progress of a reclaim under this epoch.
   */
  reclaim: {
    /**
     * The guest is off, or the time for it is over.
     */
    drained: boolean;
    /**
     * Nonce of the last attested boot; empty before it.
     */
    attestedNonce: string;
    /**
     * Disks wiped and read back.
     */
    wipedDisks: number;
    /**
     * Disks, memory and links meet the baseline.
     */
    checked: boolean;
  };
  operation?: Operation;
}
/**
 * What the machine is made of.
 */
export interface Inventory {
  /**
   * Processor.
   */
  architecture: 'x86_64' | 'aarch64';
  cores: number;
  memoryBytes: number;
  /**
   * @maxItems 64
   */
  disks: Disk[];
}
/**
 * A local disk.
 */
export interface Disk {
  name: string;
  serial?: string;
  sizeBytes: number;
  /**
   * Kind.
   */
  media: 'NVMe' | 'SSD' | 'HDD';
}
/**
 * The node's row in the agent's durable log. It survives the agent's restart.
 */
export interface Record {
  /**
   * Highest term accepted for the node.
   */
  term: number;
  /**
   * Highest epoch accepted for the node; every fact of the observation is about it.
   */
  epoch: number;
  /**
   * Highest epoch of an instruction that was refused as Busy; nothing below it is accepted any more. Absent where it is not above `epoch`.
   */
  seenEpoch?: number;
  /**
   * UID of the allocation that the epoch belongs to; absent in reclaim and when it never had one.
   */
  allocation?: string;
  /**
   * Revision that the guest runs or is to run.
   */
  revision?: string;
  /**
   * A guest executed its first instruction since the last clean certificate, under whatever epoch.
   */
  guestStarted: boolean;
  /**
   * The commit to devirtualize went to the hypervisor under this epoch.
   */
  commitSent: boolean;
  /**
   * An end (drain, fence under a reclaim epoch) was accepted since the last clean certificate.
   */
  ended: boolean;
  certificate?: Certificate;
}
/**
 * Clean certificate: attested boot of the trusted image with a fresh nonce, every inventoried disk wiped, since the last tenant boot.
 */
export interface Certificate {
  /**
   * Epoch of the reclaim.
   */
  epoch: number;
  /**
   * The attestation's nonce.
   */
  nonce: string;
  /**
   * RFC 3339.
   */
  at: string;
  /**
   * How.
   */
  erase: 'Quick' | 'Crypto' | 'Full';
  /**
   * Serial numbers of the wiped disks.
   *
   * @maxItems 64
   */
  disks: string[];
  attestation?: Attestation;
}
/**
 * It answered with the token of its boot, which whatever the machine booted can have read.
 */
export interface TokenAttestation {
  method: 'Token';
}
/**
 * A quote of the machine's enrolled TPM, over fresh bytes, was right by these reference values, and the machine was still in that boot at the end of the check.
 */
export interface TpmAttestation {
  method: 'Tpm';
  /**
   * Of the file of reference values that the boot met.
   */
  referenceSha256: string;
}
/**
 * A network port, as read back from the fabric.
 */
export interface Port {
  /**
   * Name.
   */
  name: string;
  /**
   * Data ports are what a guest can see; the control port is for VMM and agent.
   */
  role: 'Data' | 'Control';
  /**
   * Kind.
   */
  kind: 'Ethernet' | 'InfiniBand';
  /**
   * Hardware address.
   */
  address?: string;
  /**
   * Pending and Error are those of the last change that was asked for.
   */
  state: 'Ready' | 'Pending' | 'Error' | 'Unknown';
  /**
   * Isolation domain that was read back: a tenant domain, "quarantine", "provisioning", "closed", or "Unknown".
   */
  domain: string;
  /**
   * Egress that was read back.
   */
  egress?: 'None' | 'Shared' | 'Internet';
}
/**
 * Why an operation failed.
 */
export interface Failure {
  /**
   * Closed set; the operator has one policy for each.
   */
  code:
    | 'ImageUnavailable'
    | 'ImageDigestMismatch'
    | 'ImageTooLarge'
    | 'NoSuitableDisk'
    | 'DiskFailed'
    | 'MapInvalid'
    | 'BootTimeout'
    | 'BootOrderIgnored'
    | 'VmmFailed'
    | 'PowerFailed'
    | 'FabricFailed'
    | 'NotIsolated'
    | 'DrainTimeout'
    | 'AttestationFailed'
    | 'WipeFailed'
    | 'CheckFailed'
    | 'Cancelled'
    | 'Internal';
  /**
   * A sentence for people.
   */
  message: string;
  /**
   * Whether the same instruction may succeed later.
   */
  retryable: boolean;
}
/**
 * The newest operation on the node.
 */
export interface Operation {
  /**
   * The id under which it was asked for.
   */
  id: string;
  verb: Verb;
  /**
   * Term of the operator that asked.
   */
  term: number;
  /**
   * Epoch under which it was asked for.
   */
  epoch: number;
  /**
   * Running until its effect was observed.
   */
  status: 'Running' | 'Done' | 'Failed' | 'Cancelled';
  /**
   * It was under way when the agent started, and goes on once it is instructed again under its id.
   */
  awaitsWord?: true;
  failure?: Failure;
}
/**
 * A machine that the agent no longer speaks for.
 */
export interface Gone {
  type: 'gone';
  seq: number;
  name: NodeName;
}
/**
 * The snapshot, or what was missed, is complete.
 */
export interface Synced {
  type: 'synced';
  seq: number;
}
/**
 * Sent whenever nothing else was for 5 seconds, with cumulative counters.
 */
export interface Alive {
  type: 'alive';
  seq: number;
  /**
   * Since the start of the agent.
   */
  counters: {
    /**
     * Instructions accepted.
     */
    accepted: number;
    /**
     * Instructions refused.
     */
    refused: number;
    /**
     * Operations done.
     */
    completed: number;
    /**
     * Operations failed.
     */
    failed: number;
    /**
     * Bytes of images served.
     */
    imageBytes: number;
  };
}
/**
 * Body of POST /v1/instructions.
 */
export interface InstructionBatch {
  /**
   * Term of the operator.
   */
  term: number;
  /**
   * @maxItems 1024
   */
  instructions: Instruction[];
}
/**
 * Make every data port a member of one domain alone, and read it back. Allowed at any time under the epoch in force; never touches power.
 */
export interface Isolate {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'isolate';
  /**
   * Domain.
   */
  args: {
    /**
     * Isolation domain.
     */
    domain: string;
    /**
     * What lies outside and can be reached.
     */
    egress: 'None' | 'Shared' | 'Internet';
    /**
     * UID of the allocation.
     */
    allocation: string;
  };
}
/**
 * Export the image, set the boot order to the network, start the machine into the VMM, which starts the guest and copies in the background. Refused unless every data port was read back in its domain. Never erases a disk whose map is valid for the same epoch.
 */
export interface Reimage {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'reimage';
  /**
   * What and for whom.
   */
  args: {
    environment: Environment;
    /**
     * UID of the allocation.
     */
    allocation: string;
    /**
     * Host name.
     */
    hostname: string;
    /**
     * @maxItems 64
     */
    sshKeys: string[];
  };
}
/**
 * What the node is to run.
 */
export interface Environment {
  /**
   * Hash of what follows.
   */
  revision: string;
  /**
   * Operating system.
   */
  os: {
    /**
     * Family.
     */
    family: 'Linux' | 'Windows' | 'Other';
    /**
     * Architecture.
     */
    architecture: 'x86_64' | 'aarch64';
  };
  /**
   * Image.
   */
  image: {
    url: string;
    /**
     * Format.
     */
    format: 'Raw' | 'Qcow2';
    /**
     * Size of the disk that the guest sees.
     */
    sizeBytes: number;
    /**
     * The identity; the agent refuses another.
     */
    sha256: string;
  };
  /**
   * Boot.
   */
  boot: {
    /**
     * Firmware.
     */
    firmware: 'Uefi' | 'Bios';
    /**
     * @maxItems 64
     */
    kernelArguments: string[];
    /**
     * How the image keeps them.
     */
    localArguments?: 'GrubEnvironment' | 'LoaderEntry' | 'InImage';
  };
  /**
   * First-boot configuration.
   */
  userData?: {
    /**
     * Format.
     */
    format: 'CloudInit' | 'Ignition' | 'Unattend';
    inline: string;
  };
  /**
   * Copy.
   */
  install: {
    /**
     * Bytes a second; no bound when absent.
     */
    maxRateBytes?: number;
    /**
     * How it gives way to the guest.
     */
    yield: 'Strict' | 'Fair' | 'None';
    /**
     * Target.
     */
    disk: {
      /**
       * Kind.
       */
      media: 'Any' | 'NVMe' | 'SSD' | 'HDD';
      /**
       * Smallest.
       */
      minSizeBytes: number;
    };
  };
  /**
   * Hypervisor.
   */
  vmm: {
    /**
     * How the guest reaches its ports.
     */
    dataPorts: 'Passthrough' | 'Mediated';
  };
}
/**
 * Prepare: close the export, set the boot order to the disk, read everything back. Commit: the VMM leaves; refused unless prepared.
 */
export interface Devirtualize {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'devirtualize';
  /**
   * Phase.
   */
  args: {
    /**
     * Phase.
     */
    phase: 'Prepare' | 'Commit';
  };
}
/**
 * Tell the guest, ask it to shut down (ACPI), wait at most the time given. Its network stays.
 */
export interface Drain {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'drain';
  /**
   * Bound.
   */
  args: {
    /**
     * Seconds.
     */
    timeoutSeconds: number;
    /**
     * For the tenant.
     */
    message: string;
  };
}
/**
 * Put every data port into "quarantine", close the export and revoke the secrets of the tenant; read it back.
 */
export interface Fence {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'fence';
}
/**
 * Switch, and read back.
 */
export interface PowerInstruction {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'power';
  /**
   * Power.
   */
  args: {
    /**
     * State.
     */
    desired: 'Off' | 'On';
  };
}
/**
 * Boot the trusted image from the network and verify it with this nonce. Refused unless fenced and off.
 */
export interface Attest {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'attest';
  /**
   * Nonce.
   */
  args: {
    /**
     * Fresh.
     */
    nonce: string;
  };
}
/**
 * Erase every inventoried disk from within the attested boot, and read back. Refused unless attested under this epoch.
 */
export interface Wipe {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'wipe';
  /**
   * How.
   */
  args: {
    /**
     * How.
     */
    erase: 'Quick' | 'Crypto' | 'Full';
  };
}
/**
 * Compare disks, memory and links with the baseline of the class, power off, and certify.
 */
export interface Check {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'check';
}
/**
 * Read power, ports and VMM again.
 */
export interface Inspect {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'inspect';
}
/**
 * Bound the background copy from now on.
 */
export interface Throttle {
  /**
   * Names the operation; asking again under the same id asks for nothing new.
   */
  operationId: string;
  node: NodeName;
  /**
   * Epoch under which it is asked for.
   */
  epoch: number;
  verb: 'throttle';
  /**
   * Rate.
   */
  args: {
    /**
     * Bytes a second; 0 stops the copy.
     */
    maxRateBytes: number;
  };
}
/**
 * Answer to POST /v1/instructions, in the order of the instructions.
 */
export interface InstructionBatchResult {
  bootNonce: string;
  /**
   * Highest term it ever accepted.
   */
  highestTerm: number;
  /**
   * @maxItems 1024
   */
  results: InstructionResult[];
}
/**
 * Answer to one instruction.
 */
export interface InstructionResult {
  operationId: string;
  node: NodeName;
  /**
   * Completion arrives as an observation.
   */
  result: 'Accepted' | 'Refused';
  /**
   * Closed set.
   */
  reason?:
    | 'StaleTerm'
    | 'StaleEpoch'
    | 'UnknownNode'
    | 'Busy'
    | 'NotAllowed'
    | 'NotIsolated'
    | 'NotPrepared'
    | 'NotAttested'
    | 'Unsupported'
    | 'Invalid'
    | 'Conflict';
  /**
   * A sentence for people.
   */
  message?: string;
}
