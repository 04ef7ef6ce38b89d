/**
 * An allocation's nodes as the files that schedulers, MPI launchers and ssh read, in parts that fit a ConfigMap.
 *
 * Invariants:
 * 1. Every part stays below `maxPartBytes`; a node is in one part only, in the order of names.
 * 2. What agents say is believed to be text at most: an address or a key that is not one is left out, and nothing that
 *    they say can add a line.
 */

export interface MachineNode {
  readonly name: string;
  /** IP address on the data network, where known. */
  readonly address?: string | undefined;
  /** Public SSH host key, where known. */
  readonly hostKey?: string | undefined;
  readonly cores: number;
}

/** The data of one ConfigMap. Lines end in "\n". */
export interface MachineFiles {
  /** As /etc/hosts: address, name. Nodes without an address are left out. */
  readonly hosts: string;
  /** "name slots=cores", as Open MPI reads it. */
  readonly machinefile: string;
  /** As ssh's known_hosts. Nodes without a key are left out. */
  readonly known_hosts: string;
}

/** The API server's bound is 1 MiB for the whole object; this leaves room for metadata. */
export const maxPartBytes = 900_000;
const maxHostKeyLength = 2048;

const ipv4 = /^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$/;
/** Not a full grammar: a line cannot be broken with it, and it is no name. */
const ipv6 = /^(?=.*:)[0-9a-fA-F:]{2,39}$/;
const publicKey =
  /^((?:sk-)?(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521))(?:@openssh\.com)?) ([A-Za-z0-9+/]+={0,2})(?: [^\n\r]*)?$/;

const isAddress = (text: string): boolean => ipv4.test(text) || ipv6.test(text);

interface Lines {
  hosts: string;
  machinefile: string;
  known_hosts: string;
}

function linesOf({ name, address, hostKey, cores }: MachineNode): Lines {
  const reachable = address !== undefined && isAddress(address);
  const [, type, key] = (hostKey !== undefined && hostKey.length <= maxHostKeyLength && publicKey.exec(hostKey)) || [];
  return {
    hosts: reachable ? `${address} ${name}\n` : '',
    machinefile: `${name} slots=${Math.max(1, Math.floor(cores))}\n`,
    known_hosts: key === undefined ? '' : `${name}${reachable ? `,${address}` : ''} ${type} ${key}\n`,
  };
}

/** The parts, none empty; no nodes, no parts. Names must be valid node names. */
export function machineFiles(nodes: Iterable<MachineNode>, maxBytes: number = maxPartBytes): MachineFiles[] {
  const parts: Lines[] = [];
  let part: Lines = { hosts: '', machinefile: '', known_hosts: '' };
  let bytes = 0;
  for (const node of [...nodes].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const lines = linesOf(node);
    // All of it is ASCII: characters are bytes. The margin is for the keys of the data.
    const size = lines.hosts.length + lines.machinefile.length + lines.known_hosts.length;
    if (parts.length === 0 || bytes + size > maxBytes) {
      part = { hosts: '', machinefile: '', known_hosts: '' };
      parts.push(part);
      bytes = 0;
    }
    part.hosts += lines.hosts;
    part.machinefile += lines.machinefile;
    part.known_hosts += lines.known_hosts;
    bytes += size;
  }
  return parts;
}
