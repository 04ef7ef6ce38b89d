/**
 * The nftables rules that isolate the ports of Linux bridges, as text for nft, and what nft lists of them, read back. Pure.
 *
 * What the rules do, whatever a guest with root sends:
 * 1. A frame passes from a node's port to another one only if both are members of the same tenant domain.
 * 2. A frame whose source MAC address is not its port's is dropped. Answers of DHCP servers and routers never leave a node's port.
 * 3. Boot server and gateway are reached only under the port's own IPv4 address, in ARP too, and send a port only what is for it.
 *    The machine that the bridges are in is reached as a boot server by ports in provisioning, and else by none.
 * 4. A port that no element names is shut. Quarantined and closed ones are named, so that they can be told from it.
 * Members of a domain share a mark; the name of the domain stands in the comment of the element that gives the mark, so that the
 * kernel's own state says who is where.
 */
import type { Egress } from '../port.ts';
import type { BridgeLayout, NodePort } from './layout.ts';

const shutMark = 0;
const provisioningMark = 1;
const firstTenantMark = 16;
/** Sets whose elements change with membership; all else of the table stays as it was written. */
export const changingSets = ['domain', 'member', 'tenant', 'provisioning', 'outward', 'internet'] as const;

export const shutDomains: readonly string[] = ['quarantine', 'closed'];

export interface Membership {
  readonly domain: string;
  readonly egress: Egress;
}

/** Domains as the agent names them; the limits are the protocol's and nft's. */
export const isDomain = (text: string): boolean => /^[A-Za-z0-9_./:-]{1,128}$/.test(text) && text !== 'Unknown';

const quoted = (text: string): string => `"${text}"`;
const listOf = (elements: readonly string[]): string => elements.join(', ');

function addElements(table: string, set: string, elements: readonly string[]): string[] {
  return elements.length === 0 ? [] : [`add element bridge ${table} ${set} { ${listOf(elements)} }`];
}

const sets: readonly string[] = [
  'nodes { type ifname; }',
  'source { type ifname . ether_addr; }',
  'bound { type ifname . ipv4_addr; flags interval; }',
  'server { type ifname . ipv4_addr; }',
  'shared { type ipv4_addr; flags interval; auto-merge; }',
  'forbidden { type ipv4_addr; flags interval; auto-merge; }',
  'member { type ifname . mark; }',
  'tenant { type ifname; }',
  'provisioning { type ifname; }',
  'outward { type ifname; }',
  'internet { type ifname; }',
];

const notItsOwnMac = 'iifname . ether saddr != @source drop';
const isDhcpRequest = 'ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67';

function serverRules({ bootServer }: BridgeLayout): string[] {
  if (bootServer === undefined) return [];
  const bothEnds = 'iifname . ip saddr @bound iifname . ip daddr @server';
  const toPorts = (protocol: string, ports: readonly number[]): string[] =>
    ports.length === 0 ? [] : [`${bothEnds} ${protocol} dport { ${ports.join(', ')} } accept`];
  return [
    'iifname . arp saddr ip @bound iifname . arp daddr ip @server accept',
    `${isDhcpRequest} jump dhcp_request`,
    `${bothEnds} udp sport 68 udp dport 67 accept`,
    ...toPorts('tcp', bootServer.tcpPorts),
    ...toPorts('udp', bootServer.udpPorts),
    `${bothEnds} icmp type echo-request accept`,
    // A router solicitation carries nothing that a router would believe; iPXE waits for its answer.
    'icmpv6 type nd-router-solicit ip6 daddr ff02::2 accept',
  ];
}

/** What the boot server sends to a port: its own frames, and those to groups (advertisements, ARP). */
const fromServerRules = [
  'oifname != @provisioning return',
  'oifname . ether daddr @source accept',
  'ether daddr and 01:00:00:00:00:00 == 01:00:00:00:00:00 accept',
];

const toGatewayRules = [
  'iifname != @outward return',
  'iifname . arp saddr ip @bound accept',
  'ether type != ip return',
  'iifname . ip saddr != @bound return',
  'ip daddr @forbidden return',
  'ip daddr @shared accept',
  'iifname @internet accept',
];

const fromGatewayRules = [
  'oifname != @outward return',
  'oifname . arp daddr ip @bound accept',
  'ether type != ip return',
  'oifname . ip daddr != @bound return',
  'ip saddr @forbidden return',
  'ip saddr @shared accept',
  'oifname @internet accept',
];

/** The address of the client in a DHCP message, counted from the UDP header. */
const clientAddress = (address: string): string => `@th,288,48 0x${address.replaceAll(':', '')}`;

/**
 * The ways from the nodes' ports to what they share, and back. Each place is either behind an interface of the bridge or the
 * machine itself.
 */
function places({
  bootServer,
  dhcp,
  gateway,
}: BridgeLayout): { ifname: string | undefined; out: string; back: string }[] {
  return [
    ...(bootServer === undefined
      ? []
      : [{ ifname: bootServer.ifname, out: 'iifname @provisioning jump to_server', back: 'jump from_server' }]),
    ...(dhcp === undefined
      ? []
      : [
          {
            ifname: dhcp.ifname,
            out: `iifname @tenant ${isDhcpRequest} jump dhcp_request`,
            back: 'oifname @tenant udp sport 67 udp dport 68 jump dhcp_answer',
          },
        ]),
    ...(gateway === undefined ? [] : [{ ifname: gateway.ifname, out: 'jump to_gateway', back: 'jump from_gateway' }]),
  ];
}

function chains(layout: BridgeLayout, ports: readonly NodePort[]): Map<string, readonly string[]> {
  const shared = places(layout);
  const beyond = shared.filter(({ ifname }) => ifname !== undefined);
  const onMachine = shared.filter(({ ifname }) => ifname === undefined);
  return new Map<string, readonly string[]>([
    ['dhcp_request', ports.map(({ ifname, address }) => `iifname ${quoted(ifname)} ${clientAddress(address)} accept`)],
    ['dhcp_answer', ports.map(({ ifname, address }) => `oifname ${quoted(ifname)} ${clientAddress(address)} accept`)],
    ['to_server', serverRules(layout)],
    ['from_server', fromServerRules],
    ['to_gateway', toGatewayRules],
    ['from_gateway', fromGatewayRules],
    [
      'from_node',
      [
        notItsOwnMac,
        'ether daddr and ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop',
        'udp sport { 67, 547 } drop',
        'icmpv6 type { nd-router-advert, nd-redirect } drop',
        'meta mark set 0',
        'meta mark set iifname map @domain',
        'meta mark 0 drop',
      ],
    ],
    ['between', ['oifname . meta mark @member accept', 'drop']],
    ['leaving', [...beyond.map(({ ifname, out }) => `oifname ${quoted(ifname ?? '')} ${out}`), 'drop']],
    ['entering', [...beyond.map(({ ifname, back }) => `iifname ${quoted(ifname ?? '')} ${back}`), 'drop']],
    // Frames to link-local groups come here without having passed prerouting.
    ['to_machine', [notItsOwnMac, ...onMachine.map(({ out }) => out), 'drop']],
    ['from_machine', [...onMachine.map(({ back }) => back), 'drop']],
    ['prerouting', ['iifname @nodes jump from_node']],
    [
      'forward',
      ['iifname @nodes oifname @nodes goto between', 'iifname @nodes goto leaving', 'oifname @nodes goto entering'],
    ],
    ['input', ['iifname @nodes goto to_machine']],
    ['output', ['oifname @nodes goto from_machine']],
  ]);
}

const hooks: Readonly<Record<string, string>> = {
  prerouting: '-300',
  forward: '0',
  input: '0',
  output: '0',
};

function elementsOf(table: string, layout: BridgeLayout, ports: readonly NodePort[]): string[] {
  const { bootServer, gateway } = layout;
  const pairs = (values: (port: NodePort) => readonly string[]): string[] =>
    ports.flatMap((port) => values(port).map((value) => `${quoted(port.ifname)} . ${value}`));
  const serversOf = (port: NodePort): readonly string[] =>
    port.bootServer === undefined ? (bootServer?.addresses ?? []) : [port.bootServer];
  return [
    ...addElements(
      table,
      'nodes',
      ports.map(({ ifname }) => quoted(ifname)),
    ),
    ...addElements(
      table,
      'source',
      pairs(({ address }) => [address]),
    ),
    ...addElements(
      table,
      'bound',
      pairs(({ ipv4 }) => (ipv4 === undefined ? [] : [ipv4])),
    ),
    ...addElements(table, 'server', bootServer === undefined ? [] : pairs(serversOf)),
    ...addElements(table, 'shared', gateway?.shared ?? []),
    ...addElements(table, 'forbidden', gateway?.forbidden ?? []),
  ];
}

/**
 * Marks of the domains: those in `known` stay, new ones get one that no known domain had. A frame that is on its way while the
 * rules change would else be taken for a member of the domain that inherited its mark.
 */
export function assignMarks(domains: Iterable<string>, known: ReadonlyMap<string, number>): Map<string, number> {
  let last = Math.max(firstTenantMark - 1, ...known.values());
  const marks = new Map<string, number>();
  for (const domain of domains) {
    if (marks.has(domain)) continue;
    if (shutDomains.includes(domain)) marks.set(domain, shutMark);
    else if (domain === 'provisioning') marks.set(domain, provisioningMark);
    else marks.set(domain, known.get(domain) ?? ++last);
  }
  return marks;
}

function membershipElements(
  table: string,
  memberships: ReadonlyMap<string, Membership>,
  marks: ReadonlyMap<string, number>,
): string[] {
  const all = [...memberships].map(([ifname, { domain, egress }]) => ({
    name: quoted(ifname),
    domain,
    egress,
    mark: marks.get(domain) ?? shutMark,
  }));
  const tenants = all.filter(({ mark }) => mark >= firstTenantMark);
  const names = (ports: typeof all): string[] => ports.map(({ name }) => name);
  return [
    ...addElements(
      table,
      'domain',
      all.map(({ name, domain, mark }) => `${name} comment ${quoted(domain)} : ${mark}`),
    ),
    ...addElements(
      table,
      'member',
      tenants.map(({ name, mark }) => `${name} . ${mark}`),
    ),
    ...addElements(table, 'tenant', names(tenants)),
    ...addElements(table, 'provisioning', names(all.filter(({ mark }) => mark === provisioningMark))),
    ...addElements(table, 'outward', names(tenants.filter(({ egress }) => egress !== 'None'))),
    ...addElements(table, 'internet', names(tenants.filter(({ egress }) => egress === 'Internet'))),
  ];
}

/** Only the members: one transaction for nft. The rules must be in place. */
export function membershipScript(
  table: string,
  memberships: ReadonlyMap<string, Membership>,
  marks: ReadonlyMap<string, number>,
): string {
  const flushed = changingSets.map((set) => `flush ${set === 'domain' ? 'map' : 'set'} bridge ${table} ${set}`);
  return `${[...flushed, ...membershipElements(table, memberships, marks)].join('\n')}\n`;
}

/**
 * The whole table with its members: one transaction for nft, whatever stood there before.
 * Frames see the rules of before or these; a hook that is registered anew lets nothing through that the other would not.
 */
export function tableScript(
  table: string,
  layout: BridgeLayout,
  ports: readonly NodePort[],
  memberships: ReadonlyMap<string, Membership>,
  marks: ReadonlyMap<string, number>,
): string {
  const rules = chains(layout, ports);
  const declared = [...rules.keys()].map((chain) => {
    const priority = hooks[chain];
    return priority === undefined
      ? `add chain bridge ${table} ${chain}`
      : `add chain bridge ${table} ${chain} { type filter hook ${chain} priority ${priority}; policy accept; }`;
  });
  const lines = [
    `add table bridge ${table}`,
    `delete table bridge ${table}`,
    `add table bridge ${table}`,
    ...sets.map((declaration) => `add set bridge ${table} ${declaration}`),
    `add map bridge ${table} domain { type ifname : mark; }`,
    ...declared,
    ...[...rules].flatMap(([chain, list]) => list.map((rule) => `add rule bridge ${table} ${chain} ${rule}`)),
    ...elementsOf(table, layout, ports),
    ...membershipElements(table, memberships, marks),
  ];
  return `${lines.join('\n')}\n`;
}
