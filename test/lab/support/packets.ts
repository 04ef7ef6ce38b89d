/** Frames as hexadecimal text, as tests send and look for them. All addresses are texts: `52:54:00:00:00:01`, `10.0.0.1`. */

export const broadcast = 'ff:ff:ff:ff:ff:ff';

const byte = (value: number): string => value.toString(16).padStart(2, '0');
const word = (value: number): string => value.toString(16).padStart(4, '0');
export const macHex = (mac: string): string => mac.replaceAll(':', '');
const ipHex = (ip: string): string =>
  ip
    .split('.')
    .map((part) => byte(Number(part)))
    .join('');
export const textHex = (text: string): string => Buffer.from(text).toString('hex');

/** A frame of an EtherType for experiments (IEEE 802 local experimental) that carries the text. */
export const frame = (from: string, to: string, text: string, etherType = '88b5'): string =>
  `${macHex(to)}${macHex(from)}${etherType}${textHex(text)}`.padEnd(120, '0');

export interface ArpFields {
  readonly senderMac: string;
  readonly senderIp: string;
  readonly targetIp: string;
  readonly reply?: boolean;
  /** Source and destination of the frame; the sender and everybody when absent. */
  readonly from?: string;
  readonly to?: string;
}

export function arp({
  senderMac,
  senderIp,
  targetIp,
  reply = false,
  from = senderMac,
  to = broadcast,
}: ArpFields): string {
  const body = `0001080006040${reply ? '002' : '001'}${macHex(senderMac)}${ipHex(senderIp)}000000000000${ipHex(targetIp)}`;
  return `${macHex(to)}${macHex(from)}0806${body}`.padEnd(120, '0');
}

function checksum(hex: string): string {
  let sum = 0;
  for (let at = 0; at < hex.length; at += 4) sum += Number.parseInt(hex.slice(at, at + 4).padEnd(4, '0'), 16);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return word(~sum & 0xffff);
}

function ipv4(fromIp: string, toIp: string, protocol: number, payload: string): string {
  const header = (sum: string): string =>
    `4500${word(20 + payload.length / 2)}0001000040${byte(protocol)}${sum}${ipHex(fromIp)}${ipHex(toIp)}`;
  return `${header(checksum(header('0000')))}${payload}`;
}

export interface UdpFields {
  readonly from: string;
  readonly to: string;
  readonly fromIp: string;
  readonly toIp: string;
  readonly fromPort: number;
  readonly toPort: number;
  /** Payload as hexadecimal text. */
  readonly payload: string;
}

export function udp({ from, to, fromIp, toIp, fromPort, toPort, payload }: UdpFields): string {
  const datagram = `${word(fromPort)}${word(toPort)}${word(8 + payload.length / 2)}0000${payload}`;
  return `${macHex(to)}${macHex(from)}0800${ipv4(fromIp, toIp, 17, datagram)}`;
}

export interface TcpFields {
  readonly from: string;
  readonly to: string;
  readonly fromIp: string;
  readonly toIp: string;
  readonly toPort: number;
}

/** A SYN: whoever is reached answers it, with an RST where nobody listens. */
export function syn({ from, to, fromIp, toIp, toPort }: TcpFields): string {
  const segment = (sum: string): string => `c000${word(toPort)}0000000100000000500220 00${sum}0000`.replace(' ', '');
  const pseudo = `${ipHex(fromIp)}${ipHex(toIp)}0006${word(20)}`;
  return `${macHex(to)}${macHex(from)}0800${ipv4(fromIp, toIp, 6, segment(checksum(pseudo + segment('0000'))))}`;
}

/** A DHCP message of the kind (1 discover, 2 offer, 3 request, 5 ack) about a client, with the text in its server name. */
export function dhcp(kind: number, client: string, text = ''): string {
  const op = kind === 2 || kind === 5 ? '02' : '01';
  const addresses = '00000000'.repeat(4);
  const fixed = `${op}010600deadbeef00000000${addresses}${macHex(client)}${'00'.repeat(10)}`;
  return `${fixed}${textHex(text).padEnd(128, '0')}${'00'.repeat(128)}638253633501${byte(kind)}ff`;
}

/** An IPv6 router advertisement to all nodes, from a link-local address, with the text in an option that nobody knows. */
export function routerAdvertisement(from: string, text: string): string {
  const source = `fe80${'00'.repeat(13)}01`;
  const group = `ff02${'00'.repeat(13)}01`;
  const units = Math.ceil((2 + text.length) / 8);
  const option = `fe${byte(units)}${textHex(text)}`.padEnd(units * 16, '0');
  const message = (sum: string): string => `8600${sum}40000708${'00'.repeat(8)}${option}`;
  const length = message('0000').length / 2;
  const pseudo = `${source}${group}0000${word(length)}${'00'.repeat(3)}3a`;
  const icmp = message(checksum(pseudo + message('0000')));
  return `333300000001${macHex(from)}86dd60000000${word(length)}3aff${source}${group}${icmp}`;
}

/** By this an answer to `syn` from the port is known in a frame. */
export const synAnswer = (port: number): string => `${word(port)}c000`;
