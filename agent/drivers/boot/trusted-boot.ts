/**
 * How a machine gets the trusted image from the boot server: scripts of iPXE, kernel arguments, files; and who judges what it then says.
 *
 * Invariants:
 * 1. A script never ends: a machine that does not boot what it is given asks again, and does not fall through to its disk. Nor does one whose kernel
 *    panics: it starts anew, and during a reclaim its boot order is the network (agent/reclaim.ts).
 * 2. A node that attests by TPM boots the image in one file, which firmware measures whole; its command line is known before it starts.
 * 3. What such a node reports as wiped and checked counts only with a quote after it, which shows that it is still in the attested boot.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Quoted } from '../../attestation/keys.ts';
import type { Erase, VmmReading } from '../port.ts';
import type { BootFile } from './boot-server.ts';
import { attestByTpm, stillAttested, type TpmAttestationOptions } from './tpm-attestation.ts';
import type { TrustedBoots } from './trusted.ts';
import type { Baseline } from './trusted-facts.ts';

/** How one machine reaches the boot server. */
export interface TrustedPlace {
  /** `http://host:port` of the boot server as this machine reaches it. */
  readonly server: string;
  /** MAC address of the control port. */
  readonly control: string;
  /** Its address with prefix length; absent: by DHCP. */
  readonly address?: string;
  /** More arguments of the kernel, for machines of this kind. */
  readonly kernelArguments?: readonly string[];
}

/** The rack's side of the trusted image: who booted it, and what it does. */
export interface TrustedSide {
  /** The boot server hands the trusted image to this node, now. `script` is iPXE's; files are asked for under `bootId`. */
  begin(node: string, place: TrustedPlace): { readonly bootId: string; readonly script: string };
  end(node: string): void;
  read(node: string): VmmReading['trusted'];
  attest(node: string, nonce: string): Promise<void>;
  wipe(node: string, erase: Erase): Promise<void>;
  check(node: string): Promise<void>;
  handle(request: IncomingMessage, response: ServerResponse): Promise<boolean>;
}

export interface TrustedSideOptions {
  /** By node; of one that is not among them nothing is asked. */
  readonly baselines: ReadonlyMap<string, Baseline>;
  /** Absent: a boot is attested by its token and the port that it came through. */
  readonly tpm?: TpmAttestationOptions;
}

interface MeasuredBoot {
  readonly bootId: string;
  readonly commandLine: string;
  /** The newest attestation of it. */
  attested?: { readonly nonce: string; readonly quoted: Quoted };
}

export function trustedSide(boots: TrustedBoots, { baselines, tpm }: TrustedSideOptions): TrustedSide {
  /** The newest, by node. */
  const measured = new Map<string, MeasuredBoot>();
  return {
    begin(node, place) {
      const { bootId, kernelArguments } = boots.begin(node);
      const own = [...argumentsOf(place), ...kernelArguments];
      const files = { again: `${place.server}/boot.ipxe`, directory: `${place.server}/boot/${bootId}` };
      if (tpm === undefined) return { bootId, script: pairScript(files, own) };
      measured.set(node, { bootId, commandLine: [unifiedName, ...own].join(' ') });
      return { bootId, script: unifiedScript(files, own) };
    },
    end: (node) => boots.end(node),
    read: (node) => boots.read(node),
    async attest(node, nonce) {
      if (tpm === undefined) return boots.attest(node, nonce);
      const boot = measured.get(node);
      if (boot === undefined) throw new Error('the trusted image is not running');
      delete boot.attested;
      boot.attested = { nonce, quoted: await attestByTpm(boots, node, { nonce, ...boot }, tpm) };
    },
    wipe: (node, erase) => boots.wipe(node, erase),
    check(node) {
      const baseline = baselines.get(node) ?? {};
      if (tpm === undefined) return boots.check(node, baseline);
      const attested = measured.get(node)?.attested;
      return boots.check(node, baseline, async () => {
        if (attested === undefined) throw new Error('the machine is not attested');
        await stillAttested(boots, node, { nonce: attested.nonce, attested: attested.quoted }, tpm);
      });
    },
    handle: (request, response) => boots.handle(request, response),
  };
}

/** Paths of the files that a machine boots for a reclaim. */
export interface TrustedImage {
  readonly kernel: string;
  readonly initrd: string;
  /** Both in one PE file, for UEFI; what a node that attests by TPM boots. */
  readonly unified?: string;
  /** More arguments of its kernel, such as where the machines' console is. */
  readonly kernelArguments?: readonly string[];
}

export function trustedImageAt(
  { kernel, initrd, unified, ...rest }: TrustedImage,
  at: (path: string) => string,
): TrustedImage {
  return {
    ...rest,
    kernel: at(kernel),
    initrd: at(initrd),
    ...(unified === undefined ? {} : { unified: at(unified) }),
  };
}

const path = { type: 'string', minLength: 1, maxLength: 4096 };
/** JSON schema of it in a configuration. What an argument may hold is what neither iPXE nor a kernel gives a meaning of its own. */
export const trustedImageSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['kernel', 'initrd'],
  properties: {
    ...{ kernel: path, initrd: path, unified: path },
    kernelArguments: {
      type: 'array',
      maxItems: 32,
      items: { type: 'string', pattern: '^[A-Za-z0-9_.:,=/@%+-]{1,255}$' },
    },
  },
};

/** iPXE begins the command line with it. */
const unifiedName = 'trusted.efi';

/** For a machine that found nothing to boot. @param server `http://host:port` of the boot server as this machine reaches it */
export const askAgainScript = (server: string, why: string): string =>
  `echo ${why}\nsleep 3\nchain --replace --autofree ${server}/boot.ipxe\n`;

/** A kernel that panics would hang until somebody cuts the power; the machine asks the boot server again instead, which ends the boot that was. */
const panicSeconds = 10;

function argumentsOf({ server, control, address, kernelArguments = [] }: TrustedPlace): string[] {
  return [
    ...['console=ttyS0', 'quiet', `panic=${panicSeconds}`, ...kernelArguments],
    `bitvisor.agent=${server}/trusted`,
    `bitvisor.control=${control}`,
    ...(address === undefined ? [] : [`bitvisor.address=${address}`]),
  ];
}

interface ScriptFiles {
  /** URL of the script that is asked for when this one did not do. */
  readonly again: string;
  /** Of this start: the files are for it alone. */
  readonly directory: string;
}

const script = (lines: readonly string[], { again }: ScriptFiles): string =>
  [
    ...lines.map((line) => `${line} || goto again`),
    ':again',
    'imgfree',
    'sleep 3',
    `chain --replace --autofree ${again}`,
    '',
  ].join('\n');

const pairScript = (files: ScriptFiles, own: readonly string[]): string =>
  script(
    [
      `kernel ${files.directory}/kernel initrd=initrd ${own.join(' ')}`,
      `initrd --name initrd ${files.directory}/initrd`,
      'boot',
    ],
    files,
  );

const unifiedScript = (files: ScriptFiles, own: readonly string[]): string =>
  script([`kernel ${files.directory}/${unifiedName} ${own.join(' ')}`, 'boot'], files);

export function trustedFile({ kernel, initrd, unified }: TrustedImage, name: string): BootFile | undefined {
  const found = name === 'kernel' ? kernel : name === 'initrd' ? initrd : name === unifiedName ? unified : undefined;
  return found === undefined ? undefined : { path: found };
}
