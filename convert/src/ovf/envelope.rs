//! The envelope as plain data, straight from the normalised document.

use super::{OvfError, normal};
use serde::Deserialize;

/// `References/File`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct FileEntry {
    /// `id`.
    #[serde(rename = "@id")]
    pub id: String,
    /// `href`, untrusted.
    #[serde(rename = "@href")]
    pub href: String,
    /// `size` in bytes.
    #[serde(rename = "@size")]
    pub size: Option<String>,
    /// `compression`.
    #[serde(rename = "@compression")]
    pub compression: Option<String>,
    /// `chunkSize` in bytes.
    #[serde(rename = "@chunkSize")]
    pub chunk_size: Option<String>,
}

/// `DiskSection/Disk`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DiskEntry {
    /// `diskId`.
    #[serde(rename = "@diskId")]
    pub disk_id: String,
    /// `fileRef`; absent for an empty disk.
    #[serde(rename = "@fileRef")]
    pub file_ref: Option<String>,
    /// `capacity`, a number or `${property}`.
    #[serde(rename = "@capacity")]
    pub capacity: String,
    /// `capacityAllocationUnits`.
    #[serde(rename = "@capacityAllocationUnits")]
    pub units: Option<String>,
    /// `parentRef`.
    #[serde(rename = "@parentRef")]
    pub parent_ref: Option<String>,
}

/// `vmw:Config` or `vmw:ExtraConfig`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Key.
    #[serde(rename = "@vmw-key")]
    pub key: String,
    /// Value.
    #[serde(rename = "@vmw-value")]
    pub value: String,
}

/// A hardware item of any kind. Each field is a list, since writers repeat some; the first counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are CIM_ResourceAllocationSettingData's own")]
pub struct Item {
    #[serde(rename = "@configuration")]
    pub configuration: Option<String>,
    #[serde(rename = "Address")]
    pub address: Vec<String>,
    #[serde(rename = "AddressOnParent")]
    pub address_on_parent: Vec<String>,
    #[serde(rename = "AllocationUnits")]
    pub allocation_units: Vec<String>,
    #[serde(rename = "AutomaticAllocation")]
    pub automatic_allocation: Vec<String>,
    #[serde(rename = "Caption")]
    pub caption: Vec<String>,
    #[serde(rename = "Connection")]
    pub connection: Vec<String>,
    #[serde(rename = "Description")]
    pub description: Vec<String>,
    #[serde(rename = "ElementName")]
    pub element_name: Vec<String>,
    #[serde(rename = "HostResource")]
    pub host_resource: Vec<String>,
    #[serde(rename = "InstanceID")]
    pub instance_id: Vec<String>,
    #[serde(rename = "Limit")]
    pub limit: Vec<String>,
    #[serde(rename = "Parent")]
    pub parent: Vec<String>,
    #[serde(rename = "Reservation")]
    pub reservation: Vec<String>,
    #[serde(rename = "ResourceSubType")]
    pub resource_sub_type: Vec<String>,
    #[serde(rename = "ResourceType")]
    pub resource_type: Vec<String>,
    #[serde(rename = "VirtualQuantity")]
    pub virtual_quantity: Vec<String>,
    #[serde(rename = "VirtualQuantityUnits")]
    pub virtual_quantity_units: Vec<String>,
    #[serde(rename = "Weight")]
    pub weight: Vec<String>,
    #[serde(rename = "vmw-CoresPerSocket")]
    pub cores_per_socket: Vec<String>,
    #[serde(rename = "vmw-Config")]
    pub config: Vec<Config>,
}

impl Item {
    /// The item's fields that are there, by name.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, &str)> {
        [
            ("Address", &self.address),
            ("AddressOnParent", &self.address_on_parent),
            ("AllocationUnits", &self.allocation_units),
            ("AutomaticAllocation", &self.automatic_allocation),
            ("Caption", &self.caption),
            ("Connection", &self.connection),
            ("Description", &self.description),
            ("ElementName", &self.element_name),
            ("HostResource", &self.host_resource),
            ("InstanceID", &self.instance_id),
            ("Limit", &self.limit),
            ("Parent", &self.parent),
            ("Reservation", &self.reservation),
            ("ResourceSubType", &self.resource_sub_type),
            ("ResourceType", &self.resource_type),
            ("VirtualQuantity", &self.virtual_quantity),
            ("VirtualQuantityUnits", &self.virtual_quantity_units),
            ("Weight", &self.weight),
            ("CoresPerSocket", &self.cores_per_socket),
        ]
        .into_iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())))
        .collect()
    }
}

/// `System`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SystemEntry {
    /// `VirtualSystemType`: `vmx-14`, `virtualbox-2.2`.
    #[serde(rename = "VirtualSystemType")]
    pub kind: Vec<String>,
}

/// `VirtualHardwareSection`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// `System`.
    #[serde(rename = "System")]
    pub system: Vec<SystemEntry>,
    /// `Item`.
    #[serde(rename = "Item")]
    pub items: Vec<Item>,
    /// `StorageItem` (OVF 2).
    #[serde(rename = "StorageItem")]
    pub storage: Vec<Item>,
    /// `EthernetPortItem` (OVF 2).
    #[serde(rename = "EthernetPortItem")]
    pub ethernet: Vec<Item>,
    /// `vmw:Config`.
    #[serde(rename = "vmw-Config")]
    pub config: Vec<Config>,
    /// `vmw:ExtraConfig`.
    #[serde(rename = "vmw-ExtraConfig")]
    pub extra: Vec<Config>,
}

/// `OperatingSystemSection`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct OperatingSystem {
    /// CIM number.
    #[serde(rename = "@id")]
    pub id: String,
    /// `vmw:osType`.
    #[serde(rename = "@vmw-osType")]
    pub os_type: Option<String>,
    /// Description.
    #[serde(rename = "Description")]
    pub description: Vec<String>,
}

/// `ProductSection/Property`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Property {
    /// Key.
    #[serde(rename = "@key")]
    pub key: String,
    /// Default value.
    #[serde(rename = "@value")]
    pub value: String,
}

/// `ProductSection`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Product {
    /// Properties.
    #[serde(rename = "Property")]
    pub properties: Vec<Property>,
}

/// `AnnotationSection`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Annotation {
    /// Text.
    #[serde(rename = "Annotation")]
    pub text: Vec<String>,
}

/// `VirtualSystem`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VirtualSystem {
    /// `id`.
    #[serde(rename = "@id")]
    pub id: String,
    /// `Name`.
    #[serde(rename = "Name")]
    pub name: Vec<String>,
    /// `OperatingSystemSection`.
    #[serde(rename = "OperatingSystemSection")]
    pub os: Vec<OperatingSystem>,
    /// `VirtualHardwareSection`.
    #[serde(rename = "VirtualHardwareSection")]
    pub hardware: Vec<Hardware>,
    /// `ProductSection`.
    #[serde(rename = "ProductSection")]
    pub product: Vec<Product>,
    /// `AnnotationSection`.
    #[serde(rename = "AnnotationSection")]
    pub annotation: Vec<Annotation>,
}

impl VirtualSystem {
    /// `Name`, else `id`.
    #[must_use]
    pub fn title(&self) -> &str {
        self.name
            .iter()
            .map(|name| name.trim())
            .find(|name| !name.is_empty())
            .unwrap_or(self.id.trim())
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Collection {
    #[serde(rename = "VirtualSystem")]
    systems: Vec<VirtualSystem>,
    #[serde(rename = "VirtualSystemCollection")]
    collections: Vec<Collection>,
    #[serde(rename = "ProductSection")]
    product: Vec<Product>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct References {
    #[serde(rename = "File")]
    files: Vec<FileEntry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct DiskSection {
    #[serde(rename = "Disk")]
    disks: Vec<DiskEntry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Configuration {
    #[serde(rename = "@id")]
    id: String,
    #[serde(rename = "@default")]
    default: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Deployment {
    #[serde(rename = "Configuration")]
    configurations: Vec<Configuration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(rename = "References")]
    references: Vec<References>,
    #[serde(rename = "DiskSection")]
    disks: Vec<DiskSection>,
    #[serde(rename = "DeploymentOptionSection")]
    deployment: Vec<Deployment>,
    #[serde(rename = "VirtualSystem")]
    systems: Vec<VirtualSystem>,
    #[serde(rename = "VirtualSystemCollection")]
    collections: Vec<Collection>,
}

/// An OVF description, flattened: guests of a vApp stand beside each other.
#[derive(Debug, Clone, Default)]
pub struct Envelope {
    /// Files.
    pub files: Vec<FileEntry>,
    /// Disks.
    pub disks: Vec<DiskEntry>,
    /// Guests.
    pub systems: Vec<VirtualSystem>,
    /// Deployment configurations: ids, the default one first.
    pub configurations: Vec<String>,
    /// A name space of VMware is used.
    pub has_vmware: bool,
}

/// Reads an OVF description.
///
/// # Errors
/// [`OvfError`]: not XML, not OVF, or above the limits.
pub fn parse(document: &[u8]) -> Result<Envelope, OvfError> {
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let text = String::from_utf8_lossy(document);
    // Some writers pad the end of the file with zeros.
    let text = text.trim_end_matches(['\0', '\u{1a}']).trim_start();
    let normal = normal::normalise(text)?;
    if !normal.text.starts_with("<Envelope") {
        return Err(OvfError::NotOvf(format!(
            "the document begins with {}",
            normal.text.chars().take(40).collect::<String>()
        )));
    }
    let raw: Raw = serde_xml_rs::SerdeXml::new()
        .overlapping_sequences(true)
        .from_str(&normal.text)
        .map_err(|error| OvfError::NotOvf(error.to_string()))?;
    let mut systems = raw.systems;
    let mut waiting: Vec<Collection> = raw.collections;
    while let Some(collection) = waiting.pop() {
        for mut system in collection.systems {
            // Properties of the vApp hold for its guests too.
            system.product.extend(collection.product.iter().cloned());
            systems.push(system);
        }
        waiting.extend(collection.collections);
    }
    let mut configurations: Vec<Configuration> = raw
        .deployment
        .into_iter()
        .flat_map(|section| section.configurations)
        .collect();
    configurations.sort_by_key(|configuration| configuration.default.as_deref() != Some("true"));
    Ok(Envelope {
        files: raw.references.into_iter().flat_map(|section| section.files).collect(),
        disks: raw.disks.into_iter().flat_map(|section| section.disks).collect(),
        systems,
        configurations: configurations
            .into_iter()
            .map(|configuration| configuration.id)
            .collect(),
        has_vmware: normal.has_vmware,
    })
}
