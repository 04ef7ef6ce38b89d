/**
 * How a machine gets the trusted image from the boot server: scripts of iPXE, kernel arguments, files.
 *
 * Invariant: a script never ends: a machine that does not boot what it is given asks again, and does not fall through to its disk.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Erase, VmmReading } from '../port.ts';
import type { BootFile } from './boot-server.ts';
import type { TrustedBoots } from './trusted.ts';
import type { Baseline } from './trusted-facts.ts';

/** The rack's side of the trusted image: who booted it, and what it does. */
export interface TrustedSide {
  begin(node: string): { readonly bootId: string; readonly kernelArguments: readonly string[] };
  end(node: string): void;
  read(node: string): VmmReading['trusted'];
  attest(node: string, nonce: string): Promise<void>;
  wipe(node: string, erase: Erase): Promise<void>;
  check(node: string): Promise<void>;
  handle(request: IncomingMessage, response: ServerResponse): Promise<boolean>;
}

/** @param baselines by node; of one that is not among them nothing is asked */
export function trustedSide(boots: TrustedBoots, baselines: ReadonlyMap<string, Baseline>): TrustedSide {
  return {
    begin: (node) => boots.begin(node),
    end: (node) => boots.end(node),
    read: (node) => boots.read(node),
    attest: (node, nonce) => boots.attest(node, nonce),
    wipe: (node, erase) => boots.wipe(node, erase),
    check: (node) => boots.check(node, baselines.get(node) ?? {}),
    handle: (request, response) => boots.handle(request, response),
  };
}

/** Paths of the files that a machine boots for a reclaim. */
export interface TrustedImage {
  readonly kernel: string;
  readonly initrd: string;
}

/** For a machine that found nothing to boot. @param server `http://host:port` of the boot server as this machine reaches it */
export const askAgainScript = (server: string, why: string): string =>
  `echo ${why}\nsleep 3\nchain --replace --autofree ${server}/boot.ipxe\n`;

/** @param control MAC address of the control port. @param address its address with prefix length; absent: by DHCP */
export function trustedArguments(server: string, control: string, address: string | undefined): string[] {
  return [
    `bitvisor.agent=${server}/trusted`,
    `bitvisor.control=${control}`,
    ...(address === undefined ? [] : [`bitvisor.address=${address}`]),
  ];
}

/** @param bootId of this start: the files are for it alone */
export function trustedScript({
  server,
  bootId,
  kernelArguments,
}: {
  readonly server: string;
  readonly bootId: string;
  readonly kernelArguments: readonly string[];
}): string {
  const files = `${server}/boot/${bootId}`;
  return [
    `kernel ${files}/kernel initrd=initrd console=ttyS0 quiet ${kernelArguments.join(' ')}`,
    `initrd --name initrd ${files}/initrd`,
    'boot',
    '',
  ].join('\n');
}

export function trustedFile({ kernel, initrd }: TrustedImage, name: string): BootFile | undefined {
  const path = name === 'kernel' ? kernel : name === 'initrd' ? initrd : undefined;
  return path === undefined ? undefined : { path };
}
