/**
 * Dell iDRAC9 and iDRAC10.
 *
 * Sources:
 * - github.com/dell/dellemc-openmanage-ansible-modules/issues/132: a reset to the state that the machine is in is answered with 409 and
 *   "Server is already powered ON."
 * - github.com/openstack-k8s-operators/infra-operator/issues/434: ForceOff of a machine that is off is answered with 409.
 * - github.com/dell/iDRAC-Redfish-Scripting/issues/319 and github.com/dell/terraform-provider-redfish/pull/138: after a boot under a
 *   continuous override the target stands first in the boot order, and the override is shown as Disabled.
 * - github.com/ironcore-dev/metal-operator/issues/80: in spite of an override for once the machine boots from its disk.
 * - github.com/stmcginnis/gofish/pull/511: iDRAC10 takes Boot at the settings resource alone.
 */
import { type Answer, type Json, refused, VendorBmc } from './vendor-bmc.ts';

const disk = 'Boot0003';
const network = 'Boot0001';

export class Idrac9 extends VendorBmc {
  readonly systemId = 'System.Embedded.1';
  readonly maker: Json = { Manufacturer: 'Dell Inc.', Model: 'PowerEdge R640' };
  override readonly root: Json = { Vendor: 'Dell', Product: 'Integrated Dell Remote Access Controller' };
  override readonly resetTypes = [
    'On',
    'ForceOff',
    'ForceRestart',
    'GracefulShutdown',
    'PushPowerButton',
    'Nmi',
    'PowerCycle',
  ];
  override order = [disk, network];

  override bootResource(): Json {
    return {
      ...super.bootResource(),
      BootOptions: { '@odata.id': `${this.systemPath}/BootOptions` },
      BootOrder: this.order,
      'BootOrder@odata.count': this.order.length,
    };
  }

  override resources(): Record<string, Json> {
    const options = `${this.systemPath}/BootOptions`;
    return {
      ...super.resources(),
      [options]: { Members: [{ '@odata.id': `${options}/${network}` }, { '@odata.id': `${options}/${disk}` }] },
      [`${options}/${network}`]: {
        Id: network,
        BootOptionReference: network,
        DisplayName: 'PXE Device 1: Integrated NIC 1 Port 1 Partition 1',
        UefiDevicePath: 'VenHw(3A191845-5F86-4E78-8FCE-C4CFF59F9DAA)',
      },
      [`${options}/${disk}`]: {
        Id: disk,
        BootOptionReference: disk,
        DisplayName: 'Debian',
        UefiDevicePath: 'HD(1,GPT,1F6B7E6A-39B6-4E42-8C1C-000000000001,0x800,0x100000)/\\EFI\\debian\\shimx64.efi',
      },
    };
  }

  override patchBoot(path: string, boot: Json, _ifMatch: string | undefined): Answer {
    if (path !== this.systemPath) return refused(405, 'Base.1.8.OperationNotAllowed', 'not here');
    this.take(boot);
    return { status: 200, body: {} };
  }

  protected override refusesReset(type: string): Answer | undefined {
    if (type === 'On' && this.power === 'On') {
      return refused(409, 'IDRAC.1.6.PSU501', 'Server is already powered ON.');
    }
    if (type !== 'On' && this.power === 'Off') {
      return refused(409, 'IDRAC.1.6.PSU502', 'Server is already powered OFF.');
    }
    return undefined;
  }

  protected override start(): void {
    if (this.boot.enabled === 'Once') {
      this.boots.push(`Hdd ${this.boot.mode}`);
      this.boot.enabled = 'Disabled';
      return;
    }
    if (this.boot.enabled === 'Continuous') {
      this.order = this.boot.target === 'Hdd' ? [disk, network] : [network, disk];
    }
    this.boots.push(`${this.order[0] === network ? 'Pxe' : 'Hdd'} ${this.boot.mode}`);
    this.boot.enabled = 'Disabled';
    this.boot.target = 'None';
  }
}

export class Idrac10 extends Idrac9 {
  override readonly maker: Json = {
    Manufacturer: 'Dell Inc.',
    Model: 'PowerEdge R470',
    '@Redfish.Settings': { SettingsObject: { '@odata.id': '/redfish/v1/Systems/System.Embedded.1/Settings' } },
  };

  override resources(): Record<string, Json> {
    const { BootSourceOverrideEnabled, BootSourceOverrideTarget, BootSourceOverrideMode } = this.bootResource();
    return {
      ...super.resources(),
      [`${this.systemPath}/Settings`]: {
        Id: 'Settings',
        Boot: { BootSourceOverrideEnabled, BootSourceOverrideTarget, BootSourceOverrideMode },
      },
    };
  }

  override etag(path: string): string | undefined {
    return path.endsWith('/Settings') ? `"${this.boot.enabled}${this.boot.target}"` : undefined;
  }

  override patchBoot(path: string, boot: Json, ifMatch: string | undefined): Answer {
    if (!path.endsWith('/Settings')) {
      return refused(
        400,
        'Base.1.18.PropertyNotWritable',
        'The property Boot is a read only property and cannot be assigned a value.',
      );
    }
    if (ifMatch !== undefined && ifMatch !== this.etag(path))
      return refused(412, 'Base.1.18.PreconditionFailed', 'changed');
    this.take(boot);
    return { status: 202, headers: { Location: '/redfish/v1/TaskService/Tasks/JID_1' } };
  }

  protected override get(path: string): Answer {
    return path === '/redfish/v1/TaskService/Tasks/JID_1'
      ? { status: 200, body: { Id: 'JID_1', TaskState: 'Completed' } }
      : super.get(path);
  }
}
