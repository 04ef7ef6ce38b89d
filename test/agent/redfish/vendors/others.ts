/**
 * Lenovo XCC, whose override is for one boot, and OpenBMC, with an override and as IBM ships it.
 *
 * Sources:
 * - pubs.lenovo.com/xcc-restapi/update_next_onetime_bootconfig_patch: the override is for the next boot and leaves the persistent boot order.
 * - github.com/lenovo/python-redfish-lenovo/pull/277: the boot order is set at the resource Systems/1/Pending.
 * - docs.nvidia.com/networking/display/bluefieldbmcv2309/boot+order+configuration: an OpenBMC override stays until it is set to none.
 * - github.com/ibm-openbmc/bmcweb/pull/209: Boot without any override.
 */
import { type Answer, type Json, refused, VendorBmc } from './vendor-bmc.ts';

export class Xcc extends VendorBmc {
  readonly systemId = '1';
  readonly maker: Json = {
    Manufacturer: 'Lenovo',
    Model: 'ThinkSystem SR650',
    '@Redfish.Settings': { SettingsObject: { '@odata.id': '/redfish/v1/Systems/1/Pending' } },
  };
  override order = ['Boot0001', 'Boot0002', 'Boot0003'];
  pending = [...this.order];

  override bootResource(): Json {
    return {
      ...super.bootResource(),
      'BootSourceOverrideEnabled@Redfish.AllowableValues': ['Disabled', 'Once'],
      BootOptions: { '@odata.id': '/redfish/v1/Systems/1/BootOptions' },
      BootOrder: this.order,
    };
  }

  override resources(): Record<string, Json> {
    const options = '/redfish/v1/Systems/1/BootOptions';
    const names = { Boot0001: 'Hard Drive', Boot0002: 'CD/DVD Rom', Boot0003: 'Network' };
    const entries = Object.entries(names).map(([id, name]): [string, Json] => [
      `${options}/${id}`,
      { Id: id, BootOptionReference: id, DisplayName: name },
    ]);
    return {
      ...super.resources(),
      ...Object.fromEntries(entries),
      [options]: { Members: entries.map(([path]) => ({ '@odata.id': path })) },
      '/redfish/v1/Systems/1/Pending': { Id: 'Pending', Boot: { BootOrder: this.pending } },
    };
  }

  override patchBoot(path: string, boot: Json): Answer {
    if (boot.BootSourceOverrideEnabled === 'Continuous') {
      return refused(400, 'Base.1.8.PropertyValueNotInList', 'Continuous is not in the list of acceptable values.');
    }
    if (!Array.isArray(boot.BootOrder)) {
      this.take(boot);
      return { status: 200, body: {} };
    }
    if (!path.endsWith('/Pending')) return refused(400, 'Base.1.8.PropertyNotWritable', 'BootOrder is read only here');
    this.pending = boot.BootOrder.map(String);
    return { status: 200, body: {} };
  }

  protected override start(): void {
    this.order = [...this.pending];
    super.start();
  }
}

export class OpenBmc extends VendorBmc {
  readonly systemId: string = 'system';
  readonly maker: Json = { Manufacturer: 'Quanta', Model: 'S6Q' };
  override readonly root: Json = { Vendor: 'OpenBMC' };

  override patchBoot(_path: string, boot: Json): Answer {
    this.take(boot);
    return { status: 204 };
  }
}

export class IbmOpenBmc extends OpenBmc {
  override readonly maker: Json = { Manufacturer: 'IBM', Model: '9105-22A' };

  override bootResource(): Json {
    return { AutomaticRetryConfig: 'Disabled', StopBootOnFault: 'Never' };
  }

  override patchBoot(): Answer {
    return refused(400, 'Base.1.11.PropertyUnknown', 'BootSourceOverrideTarget');
  }
}
