/** What the agent's hand in one machine works with. */
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { Random } from '../../../controller/runtime/random.ts';
import type { TrustedImage, TrustedSide } from '../boot/trusted-boot.ts';
import type { FabricReading, ImageReading, MachineFacts, PowerReading } from '../port.ts';
import type { VmmChannels } from '../vmm-channel/agent-side.ts';
import type { Source } from '../vmm-channel/messages.ts';
import type { DepartureTimes } from './departure.ts';

/** What else is known of the node and its image. */
export interface NodeSurroundings {
  power(): PowerReading;
  machine(): MachineFacts;
  fabric(): FabricReading;
  images(): ImageReading;
  /** Of the image with this digest, if it is what is exported to the node. */
  source(digest: string): Source | undefined;
  readImage(offset: number, length: number): Promise<Buffer>;
  /** Whether something answers at the machine's address on the control network. */
  answers(): Promise<boolean>;
}

export interface VmmFiles {
  /** What is in it is served to machines that boot the VMM. */
  readonly directory: string;
  readonly bios: string;
  readonly uefi: string;
}

export interface NodeTimes extends DepartureTimes {
  /** From PREPARE until the VMM has answered. */
  readonly prepareMs: number;
  /** From COMMIT until its outcome is called uncertain. */
  readonly commitMs: number;
  readonly lookMs: number;
  /** Between two looks at what a VMM says. */
  readonly newsMs: number;
}

export interface HardwareNodeOptions {
  readonly name: string;
  readonly surroundings: NodeSurroundings;
  readonly channels: VmmChannels;
  readonly trusted: TrustedSide;
  readonly trustedImage: TrustedImage;
  readonly vmmFiles: VmmFiles;
  /** `http://host:port` of the boot server as the machine reaches it. */
  readonly server: string;
  /** Where the VMM connects to. */
  readonly channel: { readonly address: string; readonly port: number };
  readonly control: { readonly mac: string; readonly address?: string };
  readonly guestAddress?: string;
  /** A file of this node alone. */
  readonly path: string;
  readonly times: NodeTimes;
  readonly clock: Clock;
  readonly random: Random;
  readonly changed: () => void;
  readonly onError: (error: unknown) => void;
}
