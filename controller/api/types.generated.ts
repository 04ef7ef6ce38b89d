/* Generated from crds/*.yaml by crds/generate.ts. Change the source, then run "npm run generate". */
import type { Condition, KubeObject } from './meta.ts';

/**
 * How to reach the agent, and what to believe it.
 */
export interface BitVisorAgentSpec {
  /**
   * Where the operator dials it, for example "https://t2r07.agents.example:7443".
   */
  endpoint: string;
  /**
   * How the agent proves who it is.
   */
  trust: {
    /**
     * Certificates, in PEM, that the agent's certificate must chain to. The operator's default agent CA when absent.
     */
    caBundle?: string;
    /**
     * The DNS name that the agent's certificate must carry. The name of this object when absent.
     */
    serverName?: string;
  };
  /**
   * Where its nodes stand.
   */
  location: {
    /**
     * Site.
     */
    site: string;
    /**
     * Rack.
     */
    rack: string;
  };
  /**
   * Hostlist of the nodes that are accepted from this agent, for example "t2r07n[00-31]".
   */
  nodes: string;
  /**
   * An administrator's word that these nodes hold nobody's data and may be wiped when they are first enrolled. It counts only for the agent's log that it names, so that a lost log cannot repeat it.
   */
  commission?: {
    /**
     * The agent's store id (status.storeId).
     */
    storeId: string;
    /**
     * Hostlist.
     */
    nodes: string;
  };
}

/**
 * Written by the operator.
 */
export interface BitVisorAgentStatus {
  /**
   * The generation that this status speaks of.
   */
  observedGeneration?: number;
  /**
   * The agent's version.
   */
  version?: string;
  /**
   * Version of the protocol.
   */
  protocol?: string;
  /**
   * Id of its durable log.
   */
  storeId?: string;
  /**
   * What it can do.
   *
   * @maxItems 64
   */
  capabilities?: string[];
  /**
   * Counts of its nodes.
   */
  nodes?: {
    /**
     * In the hostlist.
     */
    accepted?: number;
    /**
     * Accepted and reported.
     */
    reported?: number;
    /**
     * Clean and free.
     */
    available?: number;
    /**
     * Claimed.
     */
    inUse?: number;
    /**
     * On the way back.
     */
    reclaiming?: number;
    /**
     * Quarantined, orphaned or in maintenance.
     */
    held?: number;
  };
  /**
   * Nodes that it reported and nobody accepted, as a hostlist, cut at its bound.
   */
  strangers?: string;
  conditions?: Condition[];
}

export interface BitVisorAgent extends KubeObject {
  spec: BitVisorAgentSpec;
  status?: BitVisorAgentStatus;
}

/**
 * What a node runs. Running allocations stay on the revision they started with.
 */
export interface ComputeEnvironmentSpec {
  /**
   * The operating system that the image holds.
   */
  os: {
    /**
     * Decides how kernel arguments and user data reach the system.
     */
    family: 'Linux' | 'Windows' | 'Other';
    /**
     * For people, for example "Rocky Linux".
     */
    name: string;
    /**
     * For people, for example "9.6".
     */
    version?: string;
    /**
     * Only nodes of this architecture are chosen.
     */
    architecture: 'x86_64' | 'aarch64';
  };
  /**
   * The disk image that nodes boot from and copy to their local disk.
   */
  image: {
    /**
     * Where the agents find the image. Only a location; the digest is the identity.
     */
    url: string;
    /**
     * The format of the file behind the URL. Only nodes whose agent can export it are chosen.
     */
    format: 'Raw' | 'Qcow2';
    /**
     * Size of the disk that the guest sees, as a quantity ("32Gi"). A node's disk must be at least as large.
     */
    size: string;
    /**
     * What "bitvisor-operator image pack" prints, the SHA-256 that names the digest tree beside the image; or the SHA-256 of the file behind the URL, which costs each rack a reading of all of it before the first node starts. 64 lower-case hexadecimal digits. Agents refuse an image with another digest.
     */
    sha256: string;
  };
  /**
   * How the image is started.
   */
  boot: {
    /**
     * The firmware interface that the image expects.
     */
    firmware: 'Uefi' | 'Bios';
    /**
     * Arguments added to the kernel's command line, in this order.
     *
     * @maxItems 64
     */
    kernelArguments?: string[];
    /**
     * How the image takes the kernel arguments also when it boots from the local disk: written into the boot loader's environment block, as a boot loader entry, or already inside the image.
     */
    localArguments?: 'GrubEnvironment' | 'LoaderEntry' | 'InImage';
  };
  /**
   * First-boot configuration handed to the guest.
   */
  userData?: {
    /**
     * What in the guest reads it.
     */
    format: 'CloudInit' | 'Ignition' | 'Unattend';
    /**
     * The text itself. Never put a secret here.
     */
    inline: string;
  };
  /**
   * How the image reaches the local disk while the guest already runs.
   */
  install: {
    /**
     * Upper bound of the background copy on each node, in bytes a second, as a quantity ("100M"). No bound when absent.
     */
    maxRate?: string;
    /**
     * How the copy gives way to the guest's own disk traffic. Strict stops while the guest is busy, Fair takes a fifth of the time while the guest waits for its disk, None copies at full speed.
     */
    yield: 'Strict' | 'Fair' | 'None';
    /**
     * Which local disk receives the image; the smallest disk that fits when several do.
     */
    disk: {
      /**
       * Kind of disk.
       */
      media: 'Any' | 'NVMe' | 'SSD' | 'HDD';
      /**
       * Smallest acceptable disk, as a quantity. The image's size when absent.
       */
      minSize?: string;
    };
  };
  /**
   * What the thin hypervisor does for the guest while it is resident.
   */
  vmm: {
    /**
     * Whether the guest drives its network ports itself (Passthrough) or through the hypervisor (Mediated). A mediated port leaves with the hypervisor, so such an environment cannot be devirtualized.
     */
    dataPorts: 'Passthrough' | 'Mediated';
  };
  /**
   * What a node must have for this environment to run on it.
   */
  requirements: {
    /**
     * Number of processor cores.
     */
    minCores?: number;
    /**
     * Size of main memory, as a quantity ("54Gi").
     */
    minMemory?: string;
    /**
     * Labels that the PhysicalNode must carry.
     */
    matchLabels?: {
      [k: string]: string | undefined;
    };
  };
  /**
   * Which namespaces may use this environment.
   */
  allowedNamespaces: {
    /**
     * Only its own namespace (Same), every namespace (All), or those that are named (Named).
     */
    from: 'Same' | 'All' | 'Named';
    /**
     * The namespaces, besides its own, that may use it. Only with "Named".
     *
     * @maxItems 256
     */
    names?: string[];
  };
}

/**
 * Written by the operator.
 */
export interface ComputeEnvironmentStatus {
  /**
   * The generation that this status speaks of.
   */
  observedGeneration?: number;
  /**
   * Hash of everything that changes what a node runs.
   */
  revision?: string;
  conditions?: Condition[];
}

export interface ComputeEnvironment extends KubeObject {
  spec: ComputeEnvironmentSpec;
  status?: ComputeEnvironmentStatus;
}

/**
 * What the tenant asks for.
 */
export interface NodeAllocationSpec {
  /**
   * The environment that the nodes run.
   */
  environmentRef: {
    /**
     * Name of the ComputeEnvironment.
     */
    name: string;
    /**
     * Its namespace; the allocation's own when absent. The environment must allow this namespace.
     */
    namespace?: string;
  };
  /**
   * How many nodes.
   */
  replicas: number;
  /**
   * With fewer than this many nodes nothing is started. Equal to replicas when absent - all or nothing.
   */
  minReplicas?: number;
  /**
   * Which nodes, and how close to each other. Cannot be changed.
   */
  placement: {
    /**
     * Labels that the PhysicalNodes must carry.
     */
    selector?: {
      /**
       * Every label must be there with this value.
       */
      matchLabels?: {
        [k: string]: string | undefined;
      };
      /**
       * Every expression must hold.
       *
       * @maxItems 16
       */
      matchExpressions?: {
        /**
         * Label key.
         */
        key: string;
        /**
         * How the label is compared.
         */
        operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
        /**
         * Values for In and NotIn; empty otherwise.
         *
         * @maxItems 64
         */
        values?: string[];
      }[];
    };
    /**
     * Nodes are always packed into the fewest racks; this says what must or should hold them all.
     */
    topology?: {
      /**
       * One rack, or one site.
       */
      level: 'Rack' | 'Site';
      /**
       * Required waits until it can be met; Preferred takes what comes closest.
       */
      mode: 'Required' | 'Preferred';
    };
  };
  /**
   * When.
   */
  schedule?: {
    /**
     * How long the nodes are the tenant's, counted from the moment they were chosen ("72h"). May be extended or shortened. For ever when absent.
     */
    duration?: string;
  };
  /**
   * Who the nodes may talk to. Cannot be changed.
   */
  isolation: {
    /**
     * Allocations of this namespace with the same group share one isolation domain; alone when absent.
     */
    group?: string;
    /**
     * What lies outside the domain and can be reached - nothing, the site's shared network, or the internet.
     */
    egress: 'None' | 'Shared' | 'Internet';
  };
  /**
   * Whether the hypervisor leaves once the disk is local. Cannot be changed.
   */
  devirtualize: 'WhenInstalled' | 'Never';
  /**
   * What happens when the environment changes. Without a word from here a running node stays as it is.
   */
  update: {
    /**
     * Rolling re-images nodes to each new revision as it comes; OnDemand only to the revision named here.
     */
    policy: 'OnDemand' | 'Rolling';
    /**
     * The revision to roll to, as shown by UpdateAvailable.
     */
    revision?: string;
    /**
     * How many nodes may be re-imaged at a time.
     */
    maxUnavailable: number;
  };
  /**
   * What happens to a node that fails in use. Report shows it; Replace also gives another node in its place and keeps the failed one fenced, with its disk untouched, until the allocation ends.
   */
  failurePolicy: 'Report' | 'Replace';
  /**
   * How nodes are taken back.
   */
  reclaim: {
    /**
     * How disks are erased - by the drive's own quick format (Quick), by destroying its key (Crypto), or by overwriting everything (Full). Can only get stronger.
     */
    erase: 'Quick' | 'Crypto' | 'Full';
    /**
     * How long the tenant is warned before nodes are taken back at deletion or expiry.
     */
    gracePeriod: string;
  };
  /**
   * Release takes the nodes back when the allocation is deleted. Retain leaves them running without an owner, and an allocation of the same name and revision adopts them without a reboot.
   */
  deletionPolicy: 'Release' | 'Retain';
  /**
   * Hostlist of the nodes that are given back first when replicas is lowered, for example "t2r03n[00-07]".
   */
  release?: string;
  /**
   * Among allocations that wait for nodes, the higher number is served first.
   */
  priority: number;
  /**
   * Holds back everything that has not started. Touches no node in use.
   */
  suspend: boolean;
  /**
   * Who can log in.
   */
  access?: {
    /**
     * Public keys, in OpenSSH's authorized_keys format; a change counts from a node's next boot.
     *
     * @maxItems 64
     */
    sshKeys?: string[];
  };
}

/**
 * Written by the operator.
 */
export interface NodeAllocationStatus {
  /**
   * The generation that this status speaks of.
   */
  observedGeneration?: number;
  /**
   * One word for people. No program should decide by it.
   */
  phase?: string;
  /**
   * A label selector that selects nothing; the scale subresource wants one.
   */
  selector?: string;
  /**
   * The revision in force.
   */
  revision?: string;
  /**
   * The environment as it was accepted; nodes of this allocation run this, whatever became of the object since.
   */
  environment?: {
    /**
     * Hash of the definition.
     */
    revision: string;
    /**
     * Canonical JSON of what a node runs.
     */
    definition: string;
  };
  /**
   * The revision that its environment now has, where it is another.
   */
  updateRevision?: string;
  /**
   * The time that the nodes are the tenant's.
   */
  window?: {
    /**
     * When the placement was committed.
     */
    start?: string;
    /**
     * When the duration is over. Absent - no end.
     */
    end?: string;
  };
  /**
   * Hostlist of the nodes committed to this allocation.
   */
  nodes?: string;
  /**
   * How the nodes were chosen.
   */
  placement?: {
    /**
     * Number of racks.
     */
    racks?: number;
    /**
     * Number of sites.
     */
    sites?: number;
    /**
     * Why these, or why none.
     */
    message?: string;
  };
  /**
   * Hostlist of the nodes that the owner's update may re-image now.
   */
  updating?: string;
  /**
   * Nodes that are being taken back. An entry is never withdrawn.
   *
   * @maxItems 16
   */
  ending?: {
    /**
     * Why.
     */
    reason: 'Released' | 'ScaledDown' | 'Expired';
    /**
     * Hostlist.
     */
    nodes: string;
    /**
     * When the last node was added.
     */
    decidedAt: string;
  }[];
  /**
   * Hostlist of failed nodes that others stand in for; fenced, disks untouched.
   */
  replaced?: string;
  /**
   * The end of the whole allocation, once it is known.
   */
  ends?: {
    /**
     * Why it ends.
     */
    reason?: 'Deleted' | 'Expired';
    /**
     * When its grace is over.
     */
    at?: string;
  };
  /**
   * Nodes committed to this allocation.
   */
  replicas?: number;
  /**
   * Nodes whose guest runs.
   */
  ready?: number;
  /**
   * Nodes whose disk is local and flushed.
   */
  installed?: number;
  /**
   * Nodes whose hypervisor has left.
   */
  devirtualized?: number;
  /**
   * Nodes that failed in use.
   */
  failed?: number;
  /**
   * Progress of the copy over all nodes, in bytes.
   */
  bytes?: {
    /**
     * Bytes that are local.
     */
    installed?: number;
    /**
     * Bytes in all.
     */
    total?: number;
  };
  /**
   * ConfigMaps that hold the nodes as machine files.
   *
   * @maxItems 256
   */
  machineFiles?: string[];
  conditions?: Condition[];
}

export interface NodeAllocation extends KubeObject {
  spec: NodeAllocationSpec;
  status?: NodeAllocationStatus;
}

/**
 * What administrators decide about the machine. Its labels are those of its metadata.
 */
export interface PhysicalNodeSpec {
  /**
   * Kept out of new placements while this stands. A node in use stays in use.
   */
  maintenance?: {
    /**
     * For the colleague who finds it.
     */
    reason: string;
  };
  /**
   * A person's word on a node that the operator holds back (Quarantined or Orphaned), or cannot reach. It counts only for the epoch that it names, so that it cannot act twice.
   */
  decision?: {
    /**
     * Reclaim takes a node without a tenant through fencing, wiping and checking. End does the same to a claimed node and DESTROYS its tenant's data. Adopt gives an orphaned node back to the allocation of the same namespace, name and revision, without a reboot; where a node's update could not be begun, Adopt has it begun again, as its owner asked. WriteOff states that the machine is physically switched off or cut from every network and cannot be fenced by its agent: its claim ENDS, it counts as fenced by that person's word, and it comes back by Reclaim alone.
     */
    action: 'Reclaim' | 'End' | 'Adopt' | 'WriteOff';
    /**
     * Whose guest it is, for Adopt, where the allocation that the agent's log names is not there any more (another cluster, a new object of the same name). It must be at the revision that runs.
     */
    allocation?: {
      /**
       * Namespace.
       */
      namespace: string;
      /**
       * Name.
       */
      name: string;
    };
    /**
     * The epoch when the decision was made: status.epoch, or the higher one that status.message names.
     */
    epoch: number;
    /**
     * Who decided and why; kept in an event.
     */
    reason: string;
  };
}

/**
 * Written by the operator.
 */
export interface PhysicalNodeStatus {
  /**
   * Where the node stands in its life; see docs/states.md.
   */
  state?:
    | 'Enrolling'
    | 'Available'
    | 'Isolating'
    | 'Booting'
    | 'Streaming'
    | 'Installed'
    | 'Sealing'
    | 'Devirtualizing'
    | 'BareMetal'
    | 'Resident'
    | 'Draining'
    | 'Fencing'
    | 'PoweringOff'
    | 'Attesting'
    | 'Wiping'
    | 'Checking'
    | 'Quarantined'
    | 'Maintenance'
    | 'Orphaned';
  /**
   * When the state began.
   */
  stateSince?: string;
  /**
   * Why it is held back, or what it waits for.
   */
  message?: string;
  /**
   * The BitVisorAgent that speaks for it.
   */
  agent?: string;
  /**
   * Id of the agent's durable log that holds this node's records.
   */
  storeId?: string;
  /**
   * The machine's system UUID.
   */
  systemUuid?: string;
  /**
   * Where the machine stands.
   */
  location?: {
    /**
     * Site.
     */
    site?: string;
    /**
     * Rack.
     */
    rack?: string;
  };
  /**
   * What the machine is made of.
   */
  inventory?: {
    /**
     * Processor architecture.
     */
    architecture?: string;
    /**
     * Processor cores.
     */
    cores?: number;
    /**
     * Main memory.
     */
    memoryBytes?: number;
    /**
     * Local disks.
     *
     * @maxItems 64
     */
    disks?: {
      /**
       * Name.
       */
      name: string;
      /**
       * Serial number.
       */
      serial?: string;
      /**
       * NVMe, SSD or HDD.
       */
      media?: string;
      /**
       * Size.
       */
      sizeBytes: number;
    }[];
    /**
     * Network ports.
     *
     * @maxItems 32
     */
    ports?: {
      /**
       * Name.
       */
      name: string;
      /**
       * Data or Control.
       */
      role: string;
      /**
       * Ethernet or InfiniBand.
       */
      kind?: string;
      /**
       * Hardware address.
       */
      address?: string;
    }[];
  };
  /**
   * Counts tenancies and re-imagings; only grows.
   */
  epoch?: number;
  /**
   * The allocation that owns the node.
   */
  claim?: {
    /**
     * Who.
     */
    allocation: {
      /**
       * Namespace.
       */
      namespace: string;
      /**
       * Name.
       */
      name: string;
      /**
       * UID.
       */
      uid: string;
    };
    /**
     * Epoch at which the node was claimed or last re-imaged for it.
     */
    epoch: number;
    /**
     * Revision that the node runs or is to run.
     */
    revision: string;
    /**
     * Isolation domain of its data ports.
     */
    domain: string;
    /**
     * A guest was seen to run under this epoch; an agent that does not know of it has lost records.
     */
    started?: boolean;
    /**
     * When.
     */
    at?: string;
  };
  /**
   * Recorded before the hypervisor is told to leave. Such a node is never re-imaged on a guess.
   */
  commitSent?: {
    /**
     * Epoch of the commit.
     */
    epoch: number;
    /**
     * When.
     */
    at?: string;
  };
  /**
   * Irrevocable end of the claim, recorded before the first destructive instruction.
   */
  end?: {
    /**
     * Epoch under which the node is taken back.
     */
    epoch: number;
    /**
     * Why.
     */
    reason: string;
    /**
     * How disks are erased.
     */
    erase: string;
    /**
     * When.
     */
    at?: string;
  };
  /**
   * The end that the node came back clean from last. Deletions of a short time are counted by it, also by an operator that was not there.
   */
  released?: {
    /**
     * Whose it was.
     */
    allocation: {
      /**
       * Namespace.
       */
      namespace: string;
      /**
       * Name.
       */
      name: string;
      /**
       * UID.
       */
      uid: string;
    };
    /**
     * Why it ended.
     */
    reason: string;
    /**
     * When the end was decided.
     */
    at?: string;
  };
  /**
   * A person's word that the machine is switched off or cut from every network; stands in for reading back its fence.
   */
  writtenOff?: {
    /**
     * Epoch of the end that this word completes.
     */
    epoch: number;
    /**
     * Who said so and why, from the decision.
     */
    reason: string;
    /**
     * When it was taken in.
     */
    at?: string;
    /**
     * When its agent first reported it alive all the same.
     */
    seenAgainAt?: string;
  };
  /**
   * A decision that did not fit the node when it was seen. It never acts later; a new one differs in its reason or epoch.
   */
  refusedDecision?: {
    /**
     * Action.
     */
    action: string;
    /**
     * Epoch.
     */
    epoch: number;
    /**
     * Reason.
     */
    reason: string;
    /**
     * Why it does not fit.
     */
    message?: string;
  };
  /**
   * The last clean certificate.
   */
  certificate?: {
    /**
     * Epoch of the reclaim that produced it.
     */
    epoch: number;
    /**
     * The agent's log that holds it.
     */
    storeId: string;
    /**
     * Nonce of the attested boot.
     */
    nonce?: string;
    /**
     * When.
     */
    at: string;
    /**
     * What showed that it was the trusted image which wiped and checked. Absent: unknown, as in a record that is older than this field.
     */
    attestation?: {
      /**
       * Tpm: a quote of the machine's enrolled TPM. Token: it answered with the token of its boot, which whatever the machine booted can have read. Unknown: the agent's log does not say.
       */
      method: 'Tpm' | 'Token' | 'Unknown';
      /**
       * Of the agent's file of reference values that the boot met.
       */
      referenceSha256?: string;
    };
  };
  /**
   * What was last read back when this status was written.
   */
  observed?: {
    /**
     * Power.
     */
    power?: 'On' | 'Off' | 'Unknown';
    /**
     * The hypervisor.
     */
    vmm?: 'Resident' | 'Absent' | 'Unknown';
    /**
     * Data and control ports.
     *
     * @maxItems 32
     */
    ports?: {
      /**
       * Name.
       */
      name: string;
      /**
       * Isolation domain, "closed", or "Unknown".
       */
      domain: string;
    }[];
  };
  /**
   * Attempts at the present step.
   */
  attempts?: number;
  /**
   * When the next attempt starts.
   */
  nextRetry?: string;
  /**
   * The last failure.
   */
  lastError?: {
    /**
     * One word.
     */
    code: string;
    /**
     * A sentence.
     */
    message: string;
    /**
     * When.
     */
    at?: string;
  };
}

export interface PhysicalNode extends KubeObject {
  spec: PhysicalNodeSpec;
  status?: PhysicalNodeStatus;
}
